//! Servers that lie. Whatever they say: no value that was not asked for, the connection is closed, and the next
//! call works on a fresh one.
//!
//! Each attack is carried out once, on the first connection; then the server is honest. All attacks of
//! a test run in one PHP process, each against a server of its own.

use harness::hostile::Request;
use harness::{Act, Fault, Hostile, Memcached, Php, Proxy};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The timeout every pool of these tests has, in seconds.
pub(crate) const TIMEOUT: f64 = 0.4;

/// One attack.
pub(crate) struct Attack {
    name: String,
    /// The PHP expression that is attacked; `$m` is the pool.
    call: &'static str,
    /// What the server does at the first request of a call.
    acts: Vec<Act>,
    /// The results, as JSON, that are right; the last word is the honest server's where a repeat is allowed.
    right: Vec<&'static str>,
}

impl Attack {
    pub(crate) fn new(
        name: impl Into<String>,
        call: &'static str,
        acts: Vec<Act>,
        right: &[&'static str],
    ) -> Attack {
        Attack {
            name: name.into(),
            call,
            acts,
            right: right.to_vec(),
        }
    }

    /// An attack that says these bytes and keeps the connection open.
    pub(crate) fn says(
        name: impl Into<String>,
        call: &'static str,
        reply: &str,
        right: &[&'static str],
    ) -> Attack {
        Attack::new(name, call, vec![Act::say(reply)], right)
    }
}

/// What an honest server answers; its values name the key.
fn honest(request: &Request) -> Vec<Act> {
    let keys: Vec<&str> = request.line.split(' ').skip(1).collect();
    match request.verb() {
        "get" | "gets" => {
            let values = keys
                .iter()
                .map(|key| format!("VALUE {key} 0 {}\r\nhonest:{key}\r\n", key.len() + 7));
            vec![Act::say(values.collect::<String>() + "END\r\n")]
        }
        "delete" => vec![Act::say("DELETED\r\n")],
        "incr" => vec![Act::say("77\r\n")],
        _ => vec![Act::say("STORED\r\n")],
    }
}

/// Carries out the attacks with this PHP and fails with every one that got through.
#[track_caller]
pub(crate) fn withstand(php: &Php, attacks: Vec<Attack>) {
    withstand_as(php, "", honest, attacks);
}

/// The same with servers of the kind that `scheme` says, which answer so when they are honest.
#[track_caller]
pub(crate) fn withstand_as(
    php: &Php,
    scheme: &str,
    honest: fn(&Request) -> Vec<Act>,
    attacks: Vec<Attack>,
) {
    let servers: Vec<Hostile> = attacks
        .iter()
        .map(|attack| {
            let acts = attack.acts.clone();
            let done = AtomicBool::new(false);
            Hostile::start(move |request| match request.verb() {
                // What may come before a call: is it a Redis at all?
                "PING" => vec![Act::say("+PONG\r\n")],
                _ if !done.swap(true, Ordering::SeqCst) => acts.clone(),
                _ => honest(request),
            })
        })
        .collect();
    let mut script = String::from(
        "set_error_handler(function ($n, $text) use (&$told) { $told[] = $text; return true; });\n",
    );
    for (attack, server) in attacks.iter().zip(&servers) {
        // The pause lets surplus bytes arrive before the next call, as they would in a longer program.
        writeln!(
            script,
            "$m = new Memcache; $m->addServer('{scheme}127.0.0.1', {}, false, 1, {TIMEOUT}, 0); $t = microtime(true); $told = [];\n\
             $first = {}; $took = microtime(true) - $t; $said = json_encode($told); usleep(5000); $second = $m->get('after');\n\
             echo json_encode($first), \"\\t\", json_encode($second), \"\\t\", round($took, 2), \"\\t$said\\n\"; $m->close();",
            server.port(),
            attack.call
        )
        .unwrap();
    }
    let output = php
        .clone()
        .limit(Duration::from_secs(120))
        .run(&script)
        .ok();
    let mut report = String::new();
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), attacks.len(), "php printed:\n{output}");
    for ((attack, server), line) in attacks.iter().zip(&servers).zip(lines) {
        let name = format!("{}, {}", attack.call, attack.name);
        let words: Vec<&str> = line.split('\t').collect();
        if !attack.right.contains(&words[0]) {
            writeln!(
                report,
                "{name}: returned {}, right would be {}",
                words[0],
                attack.right.join(" or ")
            )
            .unwrap();
        }
        if words[1] != "\"honest:after\"" {
            writeln!(report, "{name}: the next call returned {}", words[1]).unwrap();
        }
        let took: f64 = words[2].parse().unwrap();
        // Twice, since a call may be repeated once on a fresh connection.
        if took > 2.0 * TIMEOUT + 0.3 {
            writeln!(
                report,
                "{name}: took {took} s with a timeout of {TIMEOUT} s"
            )
            .unwrap();
        }
        let told: Vec<String> = serde_json::from_str(words[3]).unwrap();
        // What was made good by asking again, or is believed, is nobody's trouble.
        let least = usize::from(words[0] == "false");
        if !(least..=1).contains(&told.len()) {
            writeln!(report, "{name}: told {told:?}").unwrap();
        }
        let reused = server
            .requests()
            .iter()
            .any(|request| request.connection == 0 && request.word(0) == "after");
        if reused {
            writeln!(report, "{name}: the attacked connection was used again").unwrap();
        }
        if !server.ended(0) {
            writeln!(report, "{name}: the attacked connection was left open").unwrap();
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn surplus_bytes_after_a_right_answer_never_answer_the_next_call() {
    // The first answer is right, so it may be given or withheld.
    withstand(
        &Php::new(),
        vec![
            Attack::says(
                "an extra reply for the next key",
                "$m->get('k')",
                "VALUE k 0 5\r\nright\r\nEND\r\nVALUE after 0 5\r\nwrong\r\nEND\r\n",
                &["\"right\"", "false"],
            ),
            Attack::says(
                "an extra END",
                "$m->get('k')",
                "VALUE k 0 5\r\nright\r\nEND\r\nEND\r\n",
                &["\"right\"", "false"],
            ),
            Attack::says(
                "an extra STORED",
                "$m->set('k', 'v')",
                "STORED\r\nSTORED\r\n",
                &["true", "false"],
            ),
            Attack::says(
                "an extra value",
                "$m->set('k', 'v')",
                "STORED\r\nVALUE after 0 5\r\nwrong\r\nEND\r\n",
                &["true", "false"],
            ),
            Attack::says(
                "an extra number",
                "$m->increment('k')",
                "42\r\n43\r\n",
                &["42", "false"],
            ),
            Attack::says(
                "an extra DELETED",
                "$m->delete('k')",
                "DELETED\r\nDELETED\r\n",
                &["true", "false"],
            ),
            Attack::says("one byte more", "$m->get('k')", "END\r\n\n", &["false"]),
        ],
    );
}

#[test]
fn a_lying_multi_get_never_returns_a_key_that_was_not_asked_for_or_a_wrong_value() {
    let call = "$m->get(['a', 'b'])";
    let nothing = &["[]", "false", r#"{"a":"honest:a","b":"honest:b"}"#];
    let only_a = &[
        "[]",
        "false",
        r#"{"a":"one"}"#,
        r#"{"a":"one","b":"honest:b"}"#,
        r#"{"a":"honest:a","b":"honest:b"}"#,
    ];
    withstand(
        &Php::new(),
        vec![
            Attack::says("garbage", call, "BANANA\r\n", nothing),
            Attack::says(
                "a key not asked for",
                call,
                "VALUE c 0 3\r\nbad\r\nEND\r\n",
                nothing,
            ),
            Attack::says(
                "a key not asked for, after one",
                call,
                "VALUE a 0 3\r\none\r\nVALUE c 0 3\r\nbad\r\nEND\r\n",
                only_a,
            ),
            Attack::says(
                "a key twice",
                call,
                "VALUE a 0 3\r\none\r\nVALUE a 0 3\r\ntwo\r\nEND\r\n",
                only_a,
            ),
            Attack::says(
                "a length too short",
                call,
                "VALUE a 0 2\r\nbad\r\nVALUE b 0 3\r\nbad\r\nEND\r\n",
                nothing,
            ),
            Attack::says(
                "a length that swallows the next",
                call,
                "VALUE a 0 30\r\nbad\r\nVALUE b 0 3\r\nbad\r\nEND\r\n",
                nothing,
            ),
            Attack::says("4 GiB", call, "VALUE a 0 4294967296\r\nbad", nothing),
            Attack::says("no END", call, "VALUE a 0 3\r\none\r\n", only_a),
            Attack::new(
                "an end in the value",
                call,
                vec![Act::say("VALUE a 0 3\r\non"), Act::Close],
                nothing,
            ),
            Attack::new(
                "a reset in the second",
                call,
                vec![
                    Act::say("VALUE a 0 3\r\none\r\nVALUE b 0 3\r\nb"),
                    Act::Reset,
                ],
                only_a,
            ),
        ],
    );
}

#[test]
fn an_unasked_reply_in_a_pause_never_answers_another_key() {
    let server = Hostile::start(|request| match request.number {
        0 => vec![
            Act::say("VALUE a 0 5\r\nright\r\nEND\r\n"),
            Act::Pause(Duration::from_millis(20)),
            Act::say("VALUE a 0 5\r\nwrong\r\nEND\r\n"),
        ],
        _ => honest(request),
    });
    let text = Php::new().run(&format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}, false, 1, 1, 0); $r = [$m->get('a')]; usleep(200000);\n\
         $r[] = @$m->get('b'); $r[] = $m->get('c'); echo json_encode($r);",
        server.port()
    ));
    let text = text.ok();
    assert!(
        [
            "[\"right\",\"honest:b\",\"honest:c\"]",
            "[\"right\",false,\"honest:c\"]"
        ]
        .contains(&text.as_str()),
        "{text}"
    );
}

#[test]
fn a_reply_one_byte_at_a_time_arrives_whole() {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    proxy.fault(Fault::Bytes(Duration::from_millis(1)));
    let text = Php::new().run(&format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}, false, 1, 5);\n\
         echo json_encode([$m->set('k', [1, 'x']), $m->get('k'), $m->set('n', 1), $m->increment('n'), $m->get(['k', 'n']), $m->delete('k')]);",
        proxy.port()
    ));
    assert_eq!(
        text.ok(),
        r#"[true,[1,"x"],true,2,{"k":[1,"x"],"n":2},true]"#
    );
}

#[test]
fn a_doubled_stream_never_shifts_answers() {
    let server = Memcached::start();
    server.raw(
        "set a 0 0 1\r\nA\r\nset b 0 0 1\r\nB\r\n",
        "STORED\r\nSTORED\r\n",
    );
    let proxy = Proxy::start(server.port());
    proxy.fault(Fault::Twice);
    let text = Php::new().run(&format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}, false, 1, 1, 0); $bad = 0;\n\
         for ($i = 0; $i < 200; $i++) {{ $k = $i % 2 ? 'a' : 'b'; $v = @$m->get($k); if ($v !== false && $v !== strtoupper($k)) $bad++; }}\n\
         echo $bad;",
        proxy.port()
    ));
    assert_eq!(text.ok(), "0");
}

#[test]
fn a_write_cut_after_sending_is_sent_once() {
    for end in [Act::Close, Act::Reset, Act::Hang, Act::say("BANANA\r\n")] {
        let shown = format!("{end:?}");
        let server = Hostile::start(move |_| vec![end.clone()]);
        let script = format!(
            "error_reporting(0); $m = new Memcache; $m->addServer('127.0.0.1', {}, false, 1, 0.3, 0);\n\
             foreach (['set', 'add', 'append', 'prepend', 'replace'] as $call) $m->$call($call, 'v');\n\
             $m->increment('increment'); $m->decrement('decrement');",
            server.port()
        );
        Php::new().run(&script).ok();
        let mut seen = std::collections::BTreeMap::new();
        for request in server.requests() {
            *seen.entry(request.word(0).to_string()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 7, "{shown}: {seen:?}");
        assert!(
            seen.values().all(|count| *count == 1),
            "{shown}: something was sent again: {seen:?}"
        );
    }
}

#[test]
fn a_connection_the_server_closed_while_idle_is_replaced_without_a_word() {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let wait = std::env::temp_dir().join(format!("memring-idle-{}", std::process::id()));
    let running = Php::new().start(&format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {}, true); $m->set('k', 'v'); file_put_contents('{wait}', '');\n\
         for ($i = 0; $i < 2000 && file_exists('{wait}'); $i++) {{ clearstatcache(); usleep(5000); }}\n\
         echo json_encode([$m->get('k'), $m->get(['k']), $m->set('k', 'w'), $m->get('k')]);",
        proxy.port(),
        wait = wait.display()
    ));
    assert!(
        harness::wait_until(Duration::from_secs(20), || wait.exists()),
        "the script did not get to its pause"
    );
    proxy.cut();
    std::fs::remove_file(&wait).unwrap();
    assert_eq!(running.finish().ok(), r#"["v",{"k":"v"},true,"w"]"#);
}
