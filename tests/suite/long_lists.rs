//! Nodes with more keys than a pass holds at a time, and listings longer than anybody should keep.

use crate::companion::{Tend, is_safe};
use crate::copies::Host;
use harness::{Memcached, Proxy, wait_until};
use memring_pool::call::{Call, Verb};
use memring_pool::config::{NodeSpec, Placement, Policy};
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::pool::resync::Way;
use memring_pool::replica::{Founded, Resynced};
use std::time::Duration;

/// Copies the session `s` of a node to `count` others of names that are `length` long, as sessions of
/// the life it is of.
fn multiply(node: &Memcached, count: usize, length: usize) {
    let shown = node.raw("mg s f v\r\n", "\r\n");
    let shown = String::from_utf8_lossy(&shown).into_owned();
    let flags = shown
        .split(" f")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let flags = flags.expect("flags").to_owned();
    let (_, value) = node.stored("s").expect("the session");
    for part in (0..count).collect::<Vec<_>>().chunks(20_000) {
        let mut said = Vec::new();
        for number in part {
            let head = format!("ms {number:0length$} {} F{flags} T600 q\r\n", value.len());
            said.extend_from_slice(head.as_bytes());
            said.extend_from_slice(&value);
            said.extend_from_slice(b"\r\n");
        }
        said.extend_from_slice(b"mn\r\n");
        assert_eq!(node.raw(said, "\r\n"), b"MN\r\n");
    }
}

/// 100,000 keys of 200 bytes are 27 MB of text, and took twice that for their listing alone.
#[test]
fn the_listing_of_a_node_with_many_keys_takes_no_memory_but_for_the_keys() {
    let mut nodes: Vec<Memcached> = (0..2).map(|_| Memcached::with(&["-m", "256"])).collect();
    let list = format!("{},{}", nodes[0].address(), nodes[1].address());
    assert_eq!(Host::of(&nodes, 1).found(), Founded::New);
    Host::of(&nodes, 2).write("s", "x");
    multiply(&nodes[1], 100_000, 200);
    let tend = Tend::of(&["--list", &list]);
    tend.says("2 nodes, 2 trusted");
    let before = tend.peak();
    nodes[0].restart();
    assert!(
        wait_until(Duration::from_secs(120), || is_safe(&list)),
        "{}",
        tend.log()
    );
    assert!(nodes[0].stat("curr_items") > 100_000);
    let grown = tend.peak() - before;
    // The keys and their places in a table.
    assert!(grown < 40_000, "{grown} KiB");
}

#[test]
fn where_there_is_room_for_few_keys_the_others_are_listed_again_and_all_are_mended() {
    let mut nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
    let proxies: Vec<Proxy> = nodes.iter().map(|node| Proxy::start(node.port())).collect();
    let mut pool = Pool::new(Policy {
        placement: Placement::Rendezvous,
        ..Policy::default()
    });
    let mut directory = Directory::new();
    for proxy in &proxies {
        let spec = NodeSpec {
            op_timeout: Duration::from_secs(5),
            retry_interval: 0,
            ..NodeSpec::tcp("127.0.0.1", proxy.port())
        };
        pool.add(spec, &mut directory);
    }
    let mut call = Call::new();
    call.reset(Verb::Get);
    assert_eq!(pool.found(b"~r", 1, &mut call), Founded::New);
    // A session as any host would store it, in the life that the node has.
    let record = nodes[1].stored("~r").expect("a record").1;
    let record = String::from_utf8_lossy(&record).into_owned();
    let life: u32 = record
        .split(' ')
        .nth(2)
        .and_then(|n| n.parse().ok())
        .expect("a life");
    let header = {
        let mut header = Vec::new();
        let one = memring_pool::wire::fenced::Header {
            version: 7 << 20,
            inc: life as u16,
            tombstone: false,
        };
        one.append(&mut header);
        header
    };
    let store = format!("ms s {} F{} T600\r\n", header.len() + 1, life << 20);
    nodes[1].raw([store.as_bytes(), &header, b"x\r\n"].concat(), "\r\n");
    multiply(&nodes[1], 3000, 32);
    nodes[0].restart();
    proxies.iter().for_each(Proxy::clear);
    let way = Way {
        room: 64 << 10,
        ..Way::default()
    };
    let mut told = Vec::new();
    pool.found(b"~r", 2, &mut call);
    let pass = pool.resync_told(0, b"~r", way, 3, &mut call, &mut |seen, all| {
        told.push((seen, all));
    });
    assert_eq!(
        (pass.end, pass.keys, pass.failed),
        (Resynced::Trusted, 3001, 0)
    );
    assert!((0..3000).all(|n| nodes[0].stored(&format!("{n:032}")).is_some()));
    let said = proxies[1].requests_in_time();
    let rounds = String::from_utf8_lossy(&said)
        .matches("metadump hash")
        .count();
    assert!((4..40).contains(&rounds), "{rounds}");
    // How many there are in all is a guess until the last round.
    assert_eq!(told.last(), Some(&(3001, 3001)));
    assert!(
        told.iter()
            .all(|(seen, all)| seen <= all && (1500..6000).contains(all)),
        "{told:?}"
    );
}
