//! Redis nodes that lie: every wrong answer is refused, however close to a right one it comes, told once, and costs
//! its connection; the next call, and the next node, are served as if nothing had been. `lies` and `hostile` hold the
//! same for memcached, `faults` (F9) for copied sessions.

use crate::hostile::{Attack, TIMEOUT, withstand_as};
use crate::pool::Bench;
use crate::sessions::with_sessions;
use harness::hostile::Request;
use harness::{Act, Fault, Hostile, Php, Proxy, Redis};
use memring_pool::call::Outcome;
use memring_pool::config::{NodeSpec, Policy, Schemes};
use memring_pool::error::Kind;
use memring_pool::wire::Store;
use redis::Commands;
use std::time::Duration;

/// What an honest Redis answers; its values name the key.
fn honest(request: &Request) -> Vec<Act> {
    let value = |key: &str| format!("${}\r\nhonest:{key}\r\n", key.len() + 7);
    let keys: Vec<&str> = request.line.split(' ').skip(1).collect();
    match request.verb() {
        "GET" => vec![Act::say(value(keys[0]))],
        "MGET" => {
            let values: String = keys.iter().map(|key| value(key)).collect();
            vec![Act::say(format!("*{}\r\n{values}", keys.len()))]
        }
        "DEL" => vec![Act::say(":1\r\n")],
        "EVALSHA" => vec![Act::say("$2\r\n77\r\n")],
        _ => vec![Act::say("+OK\r\n")],
    }
}

#[track_caller]
fn withstand(attacks: Vec<Attack>) {
    withstand_as(&Php::new(), "redis://", honest, attacks);
}

#[test]
fn a_lying_get_of_a_redis_returns_nothing_is_told_once_and_costs_its_connection() {
    let call = "$m->get('k')";
    // A read may be repeated, so the honest answer of a fresh connection is right too.
    let refused = &["false", "\"honest:k\""];
    let mut attacks: Vec<Attack> = [
        ("garbage", "BANANA\r\n"),
        ("binary garbage", "\0\u{1}\u{7f}\r\n\r\n\0\0\r\n"),
        ("an empty line", "\r\n"),
        ("a memcached's answer", "VALUE k 0 5\r\nwrong\r\nEND\r\n"),
        ("another command's reply", "+OK\r\n"),
        ("a status for a value", "+wrong\r\n"),
        ("a number", ":42\r\n"),
        ("a truth", "#t\r\n"),
        ("a list of the value", "*1\r\n$5\r\nwrong\r\n"),
        ("an empty list", "*0\r\n"),
        ("a map", "%1\r\n$1\r\nk\r\n$5\r\nwrong\r\n"),
        (
            "a message nobody asked for",
            ">2\r\n$1\r\nk\r\n$5\r\nwrong\r\n",
        ),
        ("length too short", "$3\r\nwrong\r\n"),
        ("length too long", "$9\r\nwrong\r\n"),
        ("length zero with data", "$0\r\nwrong\r\n"),
        ("negative length", "$-2\r\nwrong\r\n"),
        ("negative length with data", "$-5\r\nwrong\r\n"),
        ("length no number", "$five\r\nwrong\r\n"),
        ("no length", "$\r\nwrong\r\n"),
        ("a length with blanks", "$ 5\r\nwrong\r\n"),
        ("a length with a sign", "$+5\r\nwrong\r\n"),
        ("no end of the value", "$5\r\nwrong"),
        ("another end of the value", "$5\r\nwrong\n\n"),
        ("half an end of the length", "$5\nwrong\r\n"),
    ]
    .map(|(name, reply)| Attack::says(name, call, reply, refused))
    .into();
    // 2^32 + 5 and 2^64 + 5 would be 5 in a type too small.
    for length in [
        "4294967295",
        "4294967301",
        "9223372036854775807",
        "18446744073709551615",
        "18446744073709551621",
    ] {
        for sign in ["$", "*", "%", "!", "="] {
            let reply = format!("{sign}{length}\r\nwrong\r\n");
            let name = format!("{sign} of length {length}");
            attacks.push(Attack::says(name, call, &reply, refused));
        }
    }
    let endless = "x".repeat(100_000);
    for sign in ["+", "-", "$", ":"] {
        let name = format!("a line without an end, {sign}");
        attacks.push(Attack::says(
            name,
            call,
            &(sign.to_owned() + &endless),
            refused,
        ));
    }
    let late = Duration::from_secs_f64(TIMEOUT + 0.2);
    for (name, acts) in [
        ("silence", vec![Act::Hang]),
        (
            "a reply after the timeout",
            vec![Act::Pause(late), Act::say("$5\r\nwrong\r\n")],
        ),
        (
            "one byte at a time past the timeout",
            vec![Act::Drip(
                b"$20\r\nwrongwrongwrongwrong\r\n".to_vec(),
                Duration::from_millis(40),
            )],
        ),
    ] {
        attacks.push(Attack::new(name, call, acts, refused));
    }
    withstand(attacks);
}

#[test]
fn a_value_of_a_redis_that_is_cut_at_any_byte_is_returned_in_no_part() {
    let reply = b"$5\r\nwrong\r\n";
    let mut attacks = Vec::new();
    for cut in 0..reply.len() {
        for end in [Act::Close, Act::Reset] {
            let name = format!("{end:?} after {cut} bytes");
            let acts = vec![Act::say(&reply[..cut]), end];
            let right = &["false", "\"honest:k\""];
            attacks.push(Attack::new(name, "$m->get('k')", acts, right));
        }
    }
    withstand(attacks);
}

#[test]
fn a_lying_multi_get_of_a_redis_returns_no_value_under_another_key() {
    let call = "$m->get(['a', 'b'])";
    let nothing = &["[]", "false", r#"{"a":"honest:a","b":"honest:b"}"#];
    let only_a = &[
        "[]",
        "false",
        r#"{"a":"one"}"#,
        r#"{"a":"one","b":"honest:b"}"#,
        r#"{"a":"honest:a","b":"honest:b"}"#,
    ];
    let one = "$3\r\none\r\n";
    let mut attacks: Vec<Attack> = [
        ("garbage", "BANANA\r\n".to_owned()),
        ("a value for a list", one.to_owned()),
        ("no list", "*-1\r\n".to_owned()),
        ("one value of two", format!("*1\r\n{one}")),
        ("three values of two", format!("*3\r\n{one}{one}{one}")),
        ("a list of lists", format!("*2\r\n*1\r\n{one}*1\r\n{one}")),
        (
            "a list of more than there is room for",
            format!("*9223372036854775807\r\n{one}"),
        ),
        (
            "a first length too short",
            "*2\r\n$2\r\nbad\r\n$3\r\nbad\r\n".to_owned(),
        ),
        (
            "a length that swallows the next",
            "*2\r\n$30\r\nbad\r\n$3\r\nbad\r\n".to_owned(),
        ),
        ("4 GiB", "*2\r\n$4294967296\r\nbad".to_owned()),
    ]
    .map(|(name, reply)| Attack::says(name, call, &reply, nothing))
    .into();
    for (name, rest) in [
        ("a number for the second", ":1\r\n"),
        ("an error for the second", "-ERR wrong\r\n"),
        ("garbage for the second", "BANANA\r\n"),
        ("a second length too short", "$2\r\nbad\r\n"),
        ("the second is missing", ""),
    ] {
        let reply = format!("*2\r\n{one}{rest}");
        attacks.push(Attack::says(name, call, &reply, only_a));
    }
    for end in [Act::Close, Act::Reset] {
        let acts = vec![Act::say("*2\r\n$3\r\none\r\n$3\r\nb"), end];
        attacks.push(Attack::new("cut in the second", call, acts, only_a));
    }
    withstand(attacks);
}

#[test]
fn a_lying_set_delete_or_increment_of_a_redis_is_false_and_is_sent_once() {
    let mut attacks = Vec::new();
    for (call, replies) in [
        (
            "$m->set('k', 'v')",
            ["+QUEUED\r\n", ":1\r\n", "$2\r\nOK\r\n", "+ok\r\n", "+O"],
        ),
        (
            "$m->delete('k')",
            ["+OK\r\n", ":99\r\n", "$1\r\n1\r\n", ":-1\r\n", ":"],
        ),
        (
            "$m->increment('k')",
            [
                "+42\r\n",
                ":-5\r\n",
                "$3\r\n1x2\r\n",
                "$26\r\n99999999999999999999999999\r\n",
                "$2\r\n4",
            ],
        ),
    ] {
        for reply in replies {
            attacks.push(Attack::says(format!("{reply:?}"), call, reply, &["false"]));
        }
        for reply in [
            "BANANA\r\n",
            "\r\n",
            "STORED\r\n",
            "*1\r\n+OK\r\n",
            "$5\r\nwrong\r\n",
            "\0\0\0\0\r\n",
            "$4294967296\r\nOK\r\n",
        ] {
            attacks.push(Attack::says(format!("{reply:?}"), call, reply, &["false"]));
        }
        // None of the three may be sent twice: the server may have done it, and would now say yes.
        for acts in [
            vec![Act::Hang],
            vec![Act::Close],
            vec![Act::Reset],
            vec![Act::say("+O"), Act::Close],
            vec![Act::say("$2\r\n4"), Act::Reset],
        ] {
            attacks.push(Attack::new(format!("{acts:?}"), call, acts, &["false"]));
        }
    }
    withstand(attacks);
}

#[test]
fn surplus_bytes_after_a_right_answer_of_a_redis_never_answer_the_next_call() {
    // The first answer is right, so it may be given or withheld.
    let right =
        |name: &str, call, reply, right: &[&'static str]| Attack::says(name, call, reply, right);
    let value = "$5\r\nright\r\n$5\r\nwrong\r\n";
    withstand(vec![
        right(
            "a value for the next key",
            "$m->get('k')",
            value,
            &["\"right\"", "false"],
        ),
        right(
            "nothing for the next key",
            "$m->get('k')",
            "$5\r\nright\r\n$-1\r\n",
            &["\"right\"", "false"],
        ),
        right(
            "a message",
            "$m->get('k')",
            "$5\r\nright\r\n>1\r\n:1\r\n",
            &["\"right\"", "false"],
        ),
        right("one byte more", "$m->get('k')", "$-1\r\n\n", &["false"]),
        right(
            "an extra OK",
            "$m->set('k', 'v')",
            "+OK\r\n+OK\r\n",
            &["true", "false"],
        ),
        right(
            "an extra value",
            "$m->set('k', 'v')",
            "+OK\r\n$5\r\nwrong\r\n",
            &["true", "false"],
        ),
        right(
            "an extra number",
            "$m->delete('k')",
            ":1\r\n:1\r\n",
            &["true", "false"],
        ),
        right(
            "an extra count",
            "$m->increment('k')",
            "$2\r\n42\r\n$2\r\n43\r\n",
            &["42", "false"],
        ),
        right(
            "an extra list",
            "$m->get(['a', 'b'])",
            "*2\r\n$1\r\nA\r\n$1\r\nB\r\n*2\r\n$1\r\nC\r\n$1\r\nD\r\n",
            &[r#"{"a":"A","b":"B"}"#, "false", "[]"],
        ),
    ]);
}

#[test]
fn a_lying_redis_is_told_once_and_left_and_the_next_node_serves() {
    for reply in [
        "BANANA\r\n",
        ":42\r\n",
        "$9\r\nwrong\r\n",
        "$4294967301\r\nwrong\r\n",
        "*1\r\n$5\r\nwrong\r\n",
    ] {
        let liar = Hostile::start(move |_| vec![Act::say(reply), Act::Close]);
        let next = Redis::start();
        let mut bench = Bench::of(Policy::default(), &[]);
        for port in [liar.port(), next.port()] {
            let node = format!("redis://127.0.0.1:{port}?timeout=0.4");
            let spec = NodeSpec::from_add_server(&node, None, 11211, &Schemes::default()).unwrap();
            bench.pool.add(spec, &mut bench.directory);
        }
        let keys = (0..50).map(|n| format!("k{n}"));
        let key = keys
            .into_iter()
            .find(|key| bench.pool.find(key.as_bytes(), &bench.call.limits) == 0)
            .unwrap();
        assert_eq!(bench.get(&key), None, "{reply}");
        let [event] = bench.call.events() else {
            panic!("{reply}: {:?}", bench.call.events());
        };
        assert!(event.fault && liar.ended(0), "{reply}: {event:?}");
        let kinds = [Kind::Protocol, Kind::Closed];
        assert!(kinds.contains(&event.error.kind()), "{reply}: {event:?}");
        assert!(!bench.pool.is_up(0), "{reply}");
        // From now on the next node has its keys.
        assert_eq!(
            bench.store(Store::Set, &key, b"v", 0),
            Outcome::Done,
            "{reply}"
        );
        assert_eq!(bench.get(&key), Some(b"v".to_vec()), "{reply}");
        assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
        assert!(next.client().exists::<_, bool>(&key).unwrap());
    }
}

#[test]
fn a_session_behind_a_lying_redis_does_not_start_and_is_there_again_afterwards() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port());
    let node = format!(
        "redis://127.0.0.1:{}?mode=single&timeout=0.5&retry_interval=0",
        proxy.port()
    );
    let php = with_sessions(Php::new(), &node)
        .ini("session.save_handler", "memring")
        // The turn that a lie took and nobody knows of.
        .ini("memcache.lock_timeout", 1);
    let count = "session_id('s'); echo session_start() ? $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1 : 'refused';";
    assert_eq!(php.run(count).ok(), "1");
    let mut n = 1;
    for fault in [
        Fault::Garbage,
        Fault::Before(b":1\r\n"),
        Fault::Before(b"$-1\r\n"),
        Fault::Before(b"*-1\r\n"),
        Fault::Before(b"+OK\r\n"),
        Fault::Length(3),
        Fault::Length(-3),
        Fault::CloseAfter(3),
        Fault::CloseAfter(12),
        Fault::ResetAfter(6),
        Fault::Swallow,
    ] {
        proxy.fault(fault.clone());
        let text = php.run(count).text();
        assert!(text.ends_with("refused"), "{fault:?}: {text}");
        assert_eq!(text.matches("Warning").count(), 2, "{fault:?}: {text}");
        assert_eq!(
            server.client().get::<_, String>("s").unwrap(),
            format!("n|i:{n};"),
            "{fault:?}"
        );
        proxy.fault(Fault::None);
        n += 1;
        assert_eq!(php.run(count).ok(), n.to_string(), "{fault:?}");
    }
}
