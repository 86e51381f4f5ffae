//! Every wrong answer to a single get, set, delete or increment: refused, however close to a right one it comes.

use crate::hostile::{Attack, TIMEOUT, withstand};
use harness::{Act, Php};
use std::time::Duration;

#[test]
fn a_lying_get_returns_nothing_and_costs_its_connection() {
    withstand(&Php::new(), get_attacks());
}

#[test]
fn a_get_cut_at_any_byte_returns_nothing_of_it() {
    let reply = b"VALUE k 0 5\r\nwrong\r\nEND\r\n";
    let mut attacks = Vec::new();
    for cut in 0..reply.len() {
        for end in [Act::Close, Act::Reset] {
            let name = format!("{end:?} after {cut} bytes");
            let acts = vec![Act::say(&reply[..cut]), end];
            attacks.push(Attack::new(
                name,
                "$m->get('k')",
                acts,
                &["false", "\"honest:k\""],
            ));
        }
    }
    withstand(&Php::new(), attacks);
}

#[test]
fn a_lying_set_delete_or_increment_is_false_and_costs_its_connection() {
    let mut attacks = Vec::new();
    for (call, verb_replies) in [
        ("$m->set('k', 'v')", ["DELETED\r\n", "42\r\n", "STORED"]),
        ("$m->delete('k')", ["STORED\r\n", "42\r\n", "DELETED"]),
        ("$m->increment('k')", ["STORED\r\n", "DELETED\r\n", "42"]),
    ] {
        for reply in verb_replies {
            attacks.push(Attack::says(format!("{reply:?}"), call, reply, &["false"]));
        }
        for reply in [
            "BANANA\r\n",
            "\r\n",
            "VALUE k 0 1\r\nx\r\nEND\r\n",
            "END\r\n",
            "OK\r\n",
            "\0\0\0\0\r\n",
            "HD\r\n",
            "stored\r\n",
        ] {
            attacks.push(Attack::says(format!("{reply:?}"), call, reply, &["false"]));
        }
        attacks.push(Attack::new("silence", call, vec![Act::Hang], &["false"]));
        for end in [Act::Close, Act::Reset] {
            // Neither of the three may be sent twice: the server may have done it.
            attacks.push(Attack::new(
                format!("{end:?} at once"),
                call,
                vec![end.clone()],
                &["false"],
            ));
            attacks.push(Attack::new(
                format!("{end:?} in the line"),
                call,
                vec![Act::say("STO"), end],
                &["false"],
            ));
        }
    }
    for number in [
        "-5\r\n",
        "12 34\r\n",
        "99999999999999999999999999\r\n",
        "0x10\r\n",
        "4 2\r\n",
    ] {
        attacks.push(Attack::says(
            format!("{number:?}"),
            "$m->increment('k')",
            number,
            &["false"],
        ));
    }
    withstand(&Php::new(), attacks);
}

fn get_attacks() -> Vec<Attack> {
    let call = "$m->get('k')";
    // A read may be repeated, so the honest answer of a fresh connection is right too.
    let refused = &["false", "\"honest:k\""];
    let mut attacks = vec![
        Attack::says("garbage", call, "BANANA\r\n", refused),
        Attack::says(
            "binary garbage",
            call,
            "\0\u{1}\u{7f}\r\n\r\n\0\0\r\n",
            refused,
        ),
        Attack::says("an empty line", call, "\r\n", refused),
        Attack::says("another command's reply", call, "STORED\r\n", refused),
        Attack::says("a number", call, "42\r\n", refused),
        Attack::says(
            "wrong key echoed",
            call,
            "VALUE other 0 5\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "a longer key echoed",
            call,
            "VALUE kk 0 5\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "no key echoed",
            call,
            "VALUE  0 5\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "length too short",
            call,
            "VALUE k 0 3\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "length too long",
            call,
            "VALUE k 0 9\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "length zero with data",
            call,
            "VALUE k 0 0\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "length without data",
            call,
            "VALUE k 0 5\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "negative length",
            call,
            "VALUE k 0 -5\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "length no number",
            call,
            "VALUE k 0 five\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "flags no number",
            call,
            "VALUE k x 5\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "flags over 32 bits",
            call,
            "VALUE k 99999999999 5\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "length left out",
            call,
            "VALUE k 0\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::says("no END", call, "VALUE k 0 5\r\nwrong\r\n", refused),
        Attack::says(
            "garbage for END",
            call,
            "VALUE k 0 5\r\nwrong\r\nBANANA\r\n",
            refused,
        ),
        Attack::says(
            "the key twice",
            call,
            "VALUE k 0 5\r\nfirst\r\nVALUE k 0 5\r\nsecon\r\nEND\r\n",
            refused,
        ),
        Attack::says(
            "two keys",
            call,
            "VALUE k 0 5\r\nright\r\nVALUE o 0 5\r\nwrong\r\nEND\r\n",
            refused,
        ),
        Attack::new("silence", call, vec![Act::Hang], refused),
        Attack::new(
            "a reply after the timeout",
            call,
            vec![
                Act::Pause(Duration::from_secs_f64(TIMEOUT + 0.2)),
                Act::say("VALUE k 0 5\r\nwrong\r\nEND\r\n"),
            ],
            refused,
        ),
        Attack::new(
            "one byte at a time past the timeout",
            call,
            vec![Act::Drip(
                b"VALUE k 0 5\r\nwrong\r\nEND\r\n".to_vec(),
                Duration::from_millis(40),
            )],
            refused,
        ),
    ];
    for length in [
        "4294967295",
        "4294967296",
        "4294967301",
        "9223372036854775807",
        "18446744073709551615",
        "18446744073709551621",
    ] {
        // 2^32 + 5 and 2^64 + 5 would be 5 in a type too small.
        let reply = format!("VALUE k 0 {length}\r\nwrong\r\nEND\r\n");
        attacks.push(Attack::says(
            format!("length {length}"),
            call,
            &reply,
            refused,
        ));
    }
    attacks
}
