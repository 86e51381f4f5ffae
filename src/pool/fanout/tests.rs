//! A name with several addresses, which no test from outside can arrange.

use super::*;
use crate::config::NodeSpec;
use crate::finder::know;
use crate::node::Node;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::rc::Rc;

/// A port whose queue is full, so that connects to it get no answer; open as long as the list lives.
fn black_hole() -> (SocketAddr, Vec<OwnedFd>) {
    let make = |flags| socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    let listener = make(SocketFlags::CLOEXEC);
    bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    listen(&listener, 0).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
    let mut open = vec![listener];
    for _ in 0..8 {
        let client = make(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let _ = connect(&client, &address);
        open.push(client);
    }
    (address, open)
}

/// Asks the node for its version; how long that took, and what came of it.
fn ask(node: &NodeRef, limit: Duration) -> (Duration, Option<Error>) {
    let mut lane = Lane::default();
    lane.reset(node.clone(), 0, limit, limit);
    classic::version(&mut lane.out);
    lane.asks.push(Expect::Version);
    let start = Instant::now();
    let mut lanes = [lane];
    run(&mut lanes, &[]);
    let [lane] = lanes;
    (start.elapsed(), lane.error)
}

#[test]
fn a_silent_address_leaves_time_for_the_next_and_is_tried_last_afterwards() {
    const LIMIT: Duration = Duration::from_millis(600);
    let (hole, _open) = black_hole();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let good = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"VERSION 1.6.18\r\n");
        }
    });
    know("two.addresses.test", 11211, vec![hole, good]);
    let spec = NodeSpec::tcp("two.addresses.test", 11211);
    let node = Rc::new(RefCell::new(Node::new(&spec)));
    let (took, error) = ask(&node, LIMIT);
    assert!(error.is_none(), "{error:?}");
    assert!(took >= LIMIT / 3 && took < LIMIT, "{took:?}");
    node.borrow_mut().close();
    let (took, error) = ask(&node, LIMIT);
    assert!(error.is_none() && took < LIMIT / 3, "{took:?} {error:?}");
}

#[test]
fn silent_addresses_share_one_limit() {
    const LIMIT: Duration = Duration::from_millis(400);
    let (hole, _open) = black_hole();
    know("three.holes.test", 11211, vec![hole; 3]);
    let node = Rc::new(RefCell::new(Node::new(&NodeSpec::tcp(
        "three.holes.test",
        11211,
    ))));
    let (took, error) = ask(&node, LIMIT);
    assert_eq!(error.map(|e| e.number()), Some(110));
    assert!(took >= LIMIT && took < LIMIT * 2, "{took:?}");
    // Next time the name is asked for anew: it may have moved.
    let (_, error) = ask(&node, LIMIT);
    assert_eq!(error.map(|e| e.kind()), Some(Kind::Resolve));
}

#[test]
fn a_name_whose_server_became_a_replica_is_looked_up_again() {
    let server = |answer: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                while stream.read(&mut [0; 64]).is_ok_and(|count| count > 0) {
                    stream.write_all(answer).unwrap();
                }
            }
        });
        at
    };
    const REFUSED: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";
    let (old, new) = (server(REFUSED), server(b":1\r\n"));
    know("moved.primary.test", 6379, vec![old]);
    let mut spec = NodeSpec::tcp("moved.primary.test", 6379);
    spec.redis = Some(crate::config::Redis::default());
    let node = Rc::new(RefCell::new(Node::new(&spec)));
    let delete = || {
        let mut lane = Lane::default();
        let limit = Duration::from_secs(5);
        lane.reset(node.clone(), 0, limit, limit);
        lane.engine = Engine::Redis;
        lane.ask_redis(|out| redis::delete(out, b"k"));
        let mut lanes = [lane];
        run(&mut lanes, &[]);
        let [lane] = lanes;
        (lane.answers == [Reply::Done], lane.error)
    };
    let (done, error) = delete();
    assert!(!done && error.is_none(), "{error:?}");
    assert!(!node.borrow().is_connected());
    assert!(crate::finder::resolve("moved.primary.test", 6379).is_err());
    know("moved.primary.test", 6379, vec![new]);
    let (done, error) = delete();
    assert!(done && error.is_none(), "{error:?}");
    assert!(node.borrow().is_connected());
}
