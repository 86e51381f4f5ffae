//! Commands as tables of what is said, answers as tables of what is made of them.

use super::*;
use crate::wire::{Parsed, classic, meta};

const STAMP: Stamp = Stamp {
    version: Version(1024),
    inc: 17,
    tombstone: false,
    mended: false,
    witness: false,
};

fn words(has_e: bool) -> Words<'static> {
    Words {
        key: b"a",
        record_key: b"~r",
        has_e,
    }
}

fn said(has_e: bool, command: &Command) -> Vec<u8> {
    let (mut out, mut asks) = (Vec::new(), Vec::new());
    words(has_e).say(command, 7, &mut out, &mut asks);
    assert_eq!(asks, [expected(command)]);
    out
}

fn expected(command: &Command) -> Expect {
    match command {
        Command::AddRecord(_) | Command::SetRecord { .. } => Expect::Stored,
        _ => Expect::Meta,
    }
}

fn read(value: bool, token: bool) -> Command {
    Command::Read { value, token }
}

fn write(over: Over, stamp: Stamp, life: u32) -> Command {
    Command::Write {
        over,
        stamp,
        life,
        data: Arc::from(b"xyz".as_slice()),
    }
}

fn unlock(life: Option<u32>) -> Command {
    Command::Unlock {
        cas: 9,
        version: Version(1280),
        life,
    }
}

/// What becomes of these bytes as the answer to this command.
fn heard(has_e: bool, command: &Command, bytes: &[u8]) -> Result<Reply, &'static str> {
    let parsed = match expected(command) {
        Expect::Meta => meta::parse(bytes, 0),
        other => classic::parse(bytes, 0, other),
    };
    match parsed {
        Parsed::Reply(_, reply) => words(has_e).read(command, 7, reply, bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn commands_are_said_with_versions_where_the_server_has_them() {
    let record = Record::new(3, 0xabc);
    let text = "memring1 joining 3 0000000000000abc 0";
    let grave = Stamp {
        tombstone: true,
        ..STAMP
    };
    for (command, line) in [
        (Command::ReadRecord, "mg ~r v c u O7 k\r\n".to_owned()),
        (
            Command::AddRecord(record.clone()),
            format!("add ~r 0 0 37\r\n{text}\r\n"),
        ),
        (
            Command::SetRecord { cas: 5, record },
            format!("cas ~r 0 0 37 5\r\n{text}\r\n"),
        ),
        (
            Command::DoubtRecord { cas: 5 },
            "md ~r I C5 O7 k\r\n".to_owned(),
        ),
        (read(false, false), "mg a c f s t O7 k\r\n".to_owned()),
        (
            read(true, true),
            "mg a v c f s t N30 R2147483647 O7 k\r\n".to_owned(),
        ),
        (
            write(Over::Cas(9), STAMP, 60),
            "ms a 3 C9 E1041 F17825792 T60 c O7 k\r\nxyz\r\n".to_owned(),
        ),
        (
            write(Over::Nothing, grave, 60),
            "ms a 3 ME E1041 F17829888 T60 c O7 k\r\nxyz\r\n".to_owned(),
        ),
        (unlock(Some(60)), "md a I C9 E1289 T60 O7 k\r\n".to_owned()),
        (unlock(None), "md a I C9 E1289 O7 k\r\n".to_owned()),
        (
            Command::Touch { life: 60 },
            "mg a c f s t T60 O7 k\r\n".to_owned(),
        ),
        (Command::Remove { cas: 9 }, "md a C9 O7 k\r\n".to_owned()),
    ] {
        assert_eq!(String::from_utf8_lossy(&said(true, &command)), line);
    }
}

#[test]
fn without_versions_they_stand_before_the_value() {
    assert_eq!(said(false, &read(false, false)), b"mg a v c f s t O7 k\r\n");
    assert_eq!(said(false, &unlock(None)), b"md a I C9 O7 k\r\n");
    assert_eq!(
        said(false, &Command::Touch { life: 60 }),
        b"mg a v c f s t T60 O7 k\r\n"
    );
    let bytes = said(false, &write(Over::Cas(9), STAMP, 60));
    let (line, rest) = bytes.split_at(35);
    assert_eq!(line, b"ms a 19 C9 F17825792 T60 c O7 k\r\n\0\0");
    assert_eq!(rest.len(), 14 + 3 + 2);
    let (header, value) = Header::split(&bytes[33..52]).unwrap();
    assert_eq!((header.version, header.inc, value), (1024, 17, &b"xyz"[..]));
}

#[test]
fn a_life_is_never_none_and_never_a_date_and_a_grave_outlives_every_value() {
    let life = |stamp, life| {
        let bytes = said(true, &write(Over::Cas(1), stamp, life));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (_, rest) = text.split_once(" T").unwrap();
        rest.split(' ').next().unwrap().parse::<u32>().unwrap()
    };
    let grave = Stamp {
        tombstone: true,
        ..STAMP
    };
    assert_eq!((life(STAMP, 0), life(STAMP, 1440)), (1, 1440));
    assert_eq!(life(STAMP, u32::MAX), 30 * 86_400 - 120);
    assert_eq!(life(grave, u32::MAX), 30 * 86_400);
    assert_eq!(
        said(true, &unlock(Some(u32::MAX))),
        b"md a I C9 E1289 T2592000 O7 k\r\n"
    );
}

#[test]
fn what_an_item_says_of_itself_is_read_from_cas_value_and_flags() {
    let item = |stamp, left, token, data: Option<&[u8]>| {
        Ok(Reply::Item(Item {
            cas: 1041,
            stamp,
            data: data.map(Arc::from),
            left,
            token,
        }))
    };
    let own = Some(STAMP);
    let grave = Some(Stamp {
        tombstone: true,
        ..STAMP
    });
    for (value, token, bytes, expected) in [
        (
            false,
            false,
            "HD c1041 f17825792 s3 t60 O7 ka\r\n",
            item(own, 60, Token::Free, None),
        ),
        (
            true,
            true,
            "VA 3 c1041 f17825792 s3 t60 O7 ka W\r\nxyz\r\n",
            item(own, 60, Token::Won, Some(b"xyz")),
        ),
        (
            false,
            true,
            "HD c1041 f17825792 s3 t60 O7 ka Z X\r\n",
            item(own, 60, Token::Taken, None),
        ),
        // Not asked for, and somebody has it.
        (
            false,
            false,
            "HD c1041 f17825792 s3 t60 O7 ka Z\r\n",
            item(own, 60, Token::Taken, None),
        ),
        // Not asked for, and ours all the same.
        (
            false,
            false,
            "HD c1041 f17825792 s3 t60 O7 ka X W\r\n",
            item(own, 60, Token::Won, None),
        ),
        (
            true,
            false,
            "VA 0 c1041 f17829888 s0 t60 O7 ka\r\n\r\n",
            item(grave, 60, Token::Free, Some(b"")),
        ),
        // A placeholder as it is made, and later.
        (
            false,
            true,
            "HD c1041 f0 s0 t-1 O7 ka W\r\n",
            item(None, 30, Token::Won, None),
        ),
        (
            false,
            true,
            "HD c1041 f0 s0 t12 O7 ka Z\r\n",
            item(None, 12, Token::Taken, None),
        ),
        // Somebody else's, without an end.
        (
            false,
            true,
            "HD c1041 f768 s9 t-1 O7 ka\r\n",
            item(None, u32::MAX, Token::Taken, None),
        ),
    ] {
        assert_eq!(
            heard(true, &read(value, token), bytes.as_bytes()),
            expected,
            "{bytes}"
        );
    }
    assert_eq!(
        heard(true, &read(true, false), b"EN O7 ka\r\n"),
        Ok(Reply::Miss)
    );
}

#[test]
fn header_and_flags_must_agree_or_the_item_is_somebody_elses() {
    let answer = |flags: u32, header: Header, cut: usize| {
        let mut stored = Vec::new();
        header.append(&mut stored);
        stored.extend_from_slice(b"xyz");
        stored.truncate(cut);
        let mut bytes = format!("VA {0} c5 f{flags} s{0} t60 O7 ka\r\n", stored.len()).into_bytes();
        bytes.extend_from_slice(&stored);
        bytes.extend_from_slice(b"\r\n");
        match heard(false, &read(false, false), &bytes) {
            Ok(Reply::Item(item)) => (item.cas, item.stamp, item.data.map_or(0, |d| d.len())),
            other => panic!("{other:?}"),
        }
    };
    let header = |inc, tombstone| Header {
        version: 1024,
        inc,
        tombstone,
    };
    assert_eq!(answer(17 << 20, header(17, false), 19), (5, Some(STAMP), 3));
    assert_eq!(answer(17 << 20, header(17, false), 16), (5, Some(STAMP), 0));
    for (flags, header, cut) in [
        (18 << 20, header(17, false), 19),
        (17 << 20 | 4096, header(17, false), 19),
        (17 << 20, header(17, true), 19),
        (0, header(0, false), 19),
        (17 << 20, header(17, false), 15),
    ] {
        let (cas, stamp, len) = answer(flags, header, cut);
        assert_eq!((cas, stamp, len), (5, None, cut));
    }
}

#[test]
fn every_status_has_its_reply_and_no_other_passes() {
    use Reply::{Done, Exists, NotFound, NotStored, Refused};
    let over = |over| write(over, STAMP, 60);
    let set = Command::SetRecord {
        cas: 5,
        record: Record::new(1, 1),
    };
    let add = Command::AddRecord(Record::new(1, 1));
    let remove = Command::Remove { cas: 9 };
    let cases = [
        (
            over(Over::Cas(9)),
            "HD c1041 O7 ka",
            Some(Done { cas: 1041 }),
        ),
        (over(Over::Cas(9)), "EX c0 O7 ka", Some(Exists)),
        (over(Over::Cas(9)), "NF c0 O7 ka", Some(NotFound)),
        (over(Over::Cas(9)), "NS c0 O7 ka", None),
        (over(Over::Cas(9)), "HD c1042 O7 ka", None),
        (over(Over::Cas(9)), "HD O7 ka", None),
        (over(Over::Nothing), "NS c0 O7 ka", Some(NotStored)),
        (over(Over::Nothing), "EX c0 O7 ka", None),
        (set.clone(), "STORED", Some(Done { cas: 0 })),
        (set.clone(), "EXISTS", Some(Exists)),
        (set.clone(), "NOT_FOUND", Some(NotFound)),
        (set.clone(), "ERROR", None),
        (add.clone(), "STORED", Some(Done { cas: 0 })),
        (add, "NOT_STORED", Some(NotStored)),
        (
            Command::DoubtRecord { cas: 5 },
            "HD O7 k~r",
            Some(Done { cas: 0 }),
        ),
        (Command::DoubtRecord { cas: 5 }, "HD O7 ka", None),
        (unlock(None), "HD O7 ka", Some(Done { cas: 1289 })),
        (unlock(None), "EX O7 ka", Some(Exists)),
        (unlock(None), "NF O7 ka", Some(NotFound)),
        (unlock(None), "NS O7 ka", None),
        (remove.clone(), "HD O7 ka", Some(Done { cas: 0 })),
        (remove.clone(), "NF O7 ka", Some(NotFound)),
        (remove, "EN O7 ka", None),
        (Command::ReadRecord, "EN O7 k~r", Some(Reply::NoRecord)),
        (Command::ReadRecord, "HD c1 O7 k~r", None),
        (Command::ReadRecord, "EN O7 ka", None),
        (read(true, true), "EN O7 ka", Some(Reply::Miss)),
        (read(true, true), "NF O7 ka", None),
        (read(true, false), "HD c1 f0 s0 t9 O7 ka", None),
        (read(false, false), "HD c1 f0 s0 O7 ka", None),
        (read(false, false), "HD c1 s0 t9 O7 ka", None),
        (read(false, false), "HD f0 s0 t9 O7 ka", None),
        (read(false, false), "MN", None),
        (
            over(Over::Cas(9)),
            "SERVER_ERROR out of memory storing object",
            Some(Refused),
        ),
        (
            set,
            "SERVER_ERROR object too large for cache",
            Some(Refused),
        ),
        (over(Over::Cas(9)), "SERVER_ERROR busy", None),
        (over(Over::Cas(9)), "ERROR", None),
    ];
    for (command, line, expected) in cases {
        let reply = heard(true, &command, format!("{line}\r\n").as_bytes());
        assert_eq!(reply.clone().ok(), expected, "{command:?} {line} {reply:?}");
    }
    // Where the version is not the cas value, only the server knows that one.
    assert_eq!(
        heard(false, &over(Over::Cas(9)), b"HD c77 O7 ka\r\n"),
        Ok(Done { cas: 77 })
    );
    assert_eq!(
        heard(false, &unlock(None), b"HD O7 ka\r\n"),
        Ok(Done { cas: 0 })
    );
}

#[test]
fn an_answer_to_another_question_is_never_taken() {
    for line in [
        "EN O8 ka",
        "EN O7 kb",
        "EN O7 kaa",
        "EN O7 k",
        "EN O7",
        "EN ka",
        "EN",
    ] {
        let reply = heard(true, &read(true, false), format!("{line}\r\n").as_bytes());
        assert!(reply.is_err(), "{line}: {reply:?}");
    }
}

#[test]
fn a_server_that_lost_its_versions_is_told_apart() {
    let write = write(Over::Cas(9), STAMP, 60);
    for (has_e, command, line, told) in [
        (true, &write, "CLIENT_ERROR invalid flag", true),
        (
            true,
            &unlock(None),
            "CLIENT_ERROR invalid or duplicate flag",
            true,
        ),
        (true, &write, "CLIENT_ERROR bad data chunk", false),
        (false, &write, "CLIENT_ERROR invalid flag", false),
        (
            true,
            &Command::ReadRecord,
            "CLIENT_ERROR invalid flag",
            false,
        ),
    ] {
        let reply = heard(has_e, command, format!("{line}\r\n").as_bytes());
        assert_eq!(reply == Err(NO_VERSIONS), told, "{line}");
        assert!(reply.is_err());
    }
}

#[test]
fn a_record_of_another_format_is_strange_and_not_missing_and_one_in_doubt_is_not_trusted() {
    let record = Record::new(3, 0xabc).trusted();
    let text = String::from_utf8(record.encode()).unwrap();
    for (marks, doubted) in [("", false), (" X W", true), (" Z X", true)] {
        let bytes = format!("VA {} c6 O7 k~r{marks}\r\n{text}\r\n", text.len());
        let record = match doubted {
            false => record.clone(),
            true => record.doubted(),
        };
        assert_eq!(
            heard(true, &Command::ReadRecord, bytes.as_bytes()),
            Ok(Reply::Record { record, cas: 6 })
        );
    }
    for strange in ["", "memring2 x"] {
        let bytes = format!("VA {} c6 O7 k~r\r\n{strange}\r\n", strange.len());
        assert_eq!(
            heard(true, &Command::ReadRecord, bytes.as_bytes()),
            Ok(Reply::StrangeRecord)
        );
    }
}
