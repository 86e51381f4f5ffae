//! An independent client agrees with us: what PHP stores, memcache-async reads, and the other way round.
//!
//! It shares no line with the library under test. It knows no flags, so it sees the bytes as they are stored.

use futures::executor::block_on;
use futures::io::AllowStdIo;
use harness::{Memcached, Php};
use memcache_async::ascii::Protocol;
use std::net::TcpStream;

fn client(server: &Memcached) -> Protocol<AllowStdIo<TcpStream>> {
    Protocol::new(AllowStdIo::new(
        TcpStream::connect(server.address()).unwrap(),
    ))
}

#[test]
fn an_independent_client_reads_what_php_stored() {
    let server = Memcached::start();
    Php::new()
        .env("PORT", server.port())
        .run(
            r#"$m = new Memcache; $m->connect('127.0.0.1', (int)getenv('PORT'));
            $m->set(['text' => "a\0b\r\nEND\r\n", 'int' => -7, 'yes' => true, 'no' => false, 'float' => 2.5, 'list' => [1, 'x'], 'empty' => '']);
            $m->set('long', str_repeat('xy', 9000)); $m->set('packed', str_repeat('a', 5000), MEMCACHE_COMPRESSED);
            $m->increment('int', 9); $m->append('text', '!'); $m->prepend('text', '?'); $m->set('gone', 1); $m->delete('gone');"#,
        )
        .ok();
    let expected: [(&str, u32, &[u8]); 8] = [
        ("text", 0, b"?a\0b\r\nEND\r\n!"),
        ("yes", 256, b"1"),
        ("no", 256, b"0"),
        ("float", 1792, b"2.5"),
        ("list", 1, b"a:2:{i:0;i:1;i:1;s:1:\"x\";}"),
        ("empty", 0, b""),
        ("long", 0, &[b"xy".as_slice(); 9000].concat()),
        ("neg", 768, b"-3"),
    ];
    Php::new()
        .env("PORT", server.port())
        .run(
            "$m = new Memcache; $m->connect('127.0.0.1', (int)getenv('PORT')); $m->set('neg', -3);",
        )
        .ok();
    let mut client = client(&server);
    for (key, flags, bytes) in expected {
        let read = block_on(client.get(&key)).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&read),
            String::from_utf8_lossy(bytes),
            "{key}"
        );
        assert_eq!(
            server.stored(key).map(|item| item.0),
            Some(flags),
            "flags of {key}"
        );
    }
    assert!(block_on(client.get(&"gone")).is_err());
    let (flags, packed) = server.stored("packed").unwrap();
    assert_eq!(flags, 2);
    assert_eq!(block_on(client.get(&"packed")).unwrap(), packed);
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(
        &mut flate2::read::ZlibDecoder::new(packed.as_slice()),
        &mut unpacked,
    )
    .unwrap();
    assert_eq!(unpacked, vec![b'a'; 5000]);
}

#[test]
fn php_reads_what_an_independent_client_stored() {
    let server = Memcached::start();
    let mut client = client(&server);
    block_on(async {
        client.set(&"text", b"a\0b\r\nEND\r\n", 60).await.unwrap();
        client.set(&"number", b"41", 0).await.unwrap();
        client.add(&"added", b"x", 0).await.unwrap();
        client.set(&"big", &vec![b'z'; 300_000], 0).await.unwrap();
        client.increment(&"number", 1).await.unwrap();
    });
    let text = Php::new().env("PORT", server.port()).run(
        r#"$m = new Memcache; $m->connect('127.0.0.1', (int)getenv('PORT'));
        $all = $m->get(['text', 'number', 'added', 'big', 'missing']);
        echo json_encode([$all['text'], $all['number'], $all['added'], $all['big'] === str_repeat('z', 300000), count($all), $m->add('added', 'y'), $m->increment('number')]);"#,
    );
    assert_eq!(
        text.ok(),
        r#"["a\u0000b\r\nEND\r\n","42","x",true,4,false,43]"#
    );
}
