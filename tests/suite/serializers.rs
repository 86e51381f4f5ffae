//! Serializers, compression and php-memcached's format, with the extensions themselves: igbinary, msgpack and
//! php-memcached of this Debian, and a newer php-memcached where MEMRING_PHP_MEMCACHED names a PHP that has one
//! (`chroot /srv/newer /usr/bin/php8.4`).

use harness::{Memcached, Php, Redis, TempDir, workspace};
use std::process::Command;
use std::time::Duration;

/// A PHP with the extension under test and the serializers. What is compressed here takes its time where the
/// machine is busy.
fn php() -> Php {
    Php::new()
        .extension("igbinary")
        .extension("msgpack")
        .ini("memring.op_timeout", 20)
        .limit(Duration::from_secs(240))
}

/// The values, as both sides say them.
fn values() -> String {
    let path = workspace().join("tests/suite/php/values.php");
    let text = std::fs::read_to_string(path).unwrap();
    text.strip_prefix("<?php").unwrap().to_owned()
}

/// Runs a script in a PHP with php-memcached and without us.
fn rival(command: &str, script: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let mut php = Command::new(words.next().unwrap());
    php.args(words).arg("-n");
    for extension in ["igbinary", "msgpack", "memcached"] {
        php.args(["-d", &format!("extension={extension}")]);
    }
    let output = php
        .args([
            "-d",
            "display_errors=1",
            "-d",
            "memory_limit=512M",
            "-r",
            script,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The php-memcacheds there are, each as the command of its PHP.
fn rivals() -> Vec<String> {
    let own = harness::php::binary().display().to_string();
    let newer = std::env::var("MEMRING_PHP_MEMCACHED").ok();
    if newer.is_none() {
        harness::leave_out("MEMRING_PHP_MEMCACHED names no PHP with a newer php-memcached");
    }
    [own].into_iter().chain(newer).collect()
}

/// The first lines of a script of ours: a pool of one node in this format.
fn pool(node: &Memcached, serializer: &str, compression: &str, codec: &str) -> String {
    format!(
        r#"
        ini_set('memring.serializer', '{serializer}'); ini_set('memring.compression', '{compression}');
        ini_set('memring.codec', '{codec}');
        $m = new Memcache; if (!$m->addServer('127.0.0.1', {})) exit("no pool\n");
        "#,
        node.port()
    )
}

#[test]
fn what_php_memcached_writes_is_read_and_what_is_written_for_it_it_reads() {
    for command in rivals() {
        let node = Memcached::with(&["-I", "4m"]);
        let theirs = |serializer: &str, compression: &str| {
            let constant = match serializer {
                "json" => "JSON_ARRAY".to_owned(),
                other => other.to_uppercase(),
            };
            let packs = match compression {
                "none" => "$r->setOption(Memcached::OPT_COMPRESSION, false);".to_owned(),
                other => format!(
                    "$r->setOption(Memcached::OPT_COMPRESSION_TYPE, Memcached::COMPRESSION_{});",
                    other.to_uppercase()
                ),
            };
            format!(
                "{}$r = new Memcached; $r->addServer('127.0.0.1', {});
                if (!$r->setOption(Memcached::OPT_SERIALIZER, Memcached::SERIALIZER_{constant})) exit('no serializer');
                {packs}",
                values(),
                node.port()
            )
        };
        for serializer in ["php", "igbinary", "msgpack", "json"] {
            for compression in ["fastlz", "zlib", "none"] {
                let case = format!("{command}, {serializer}, {compression}");
                let script = format!(
                    "{} foreach (values() as $name => $value) if (!$r->set(\"their-$name\", $value)) echo $name;",
                    theirs(serializer, compression)
                );
                assert_eq!(rival(&command, &script), "", "{case}");
                let ours = match compression {
                    "fastlz" => "zlib",
                    other => other,
                };
                let script = format!(
                    r#"{}{}
                    ini_set('memcache.compress_threshold', 2000);
                    $keys = array_keys(values());
                    $found = $m->get(array_map(fn($name) => "their-$name", $keys));
                    echo wrong(expected('{serializer}'), array_combine(array_map(fn($key) => substr($key, 6), array_keys($found)), $found)), "\n";
                    foreach (values() as $name => $value) if (!$m->set("our-$name", $value)) echo $name;
                    "#,
                    values(),
                    pool(&node, serializer, ours, "php-memcached"),
                );
                let script = script.replace(
                    "$m = new",
                    "ini_set('memcache.compress_threshold', 2000); $m = new",
                );
                assert_eq!(php().run(&script).ok(), "all 27", "{case}");
                let script = format!(
                    "{} $found = []; foreach (values() as $name => $value) $found[$name] = $r->get(\"our-$name\");
                    echo wrong(expected('{serializer}'), $found);",
                    theirs(serializer, compression)
                );
                assert_eq!(rival(&command, &script), "all 27", "{case}, written for it");
                // The bytes are of the kind that was asked for, on both sides.
                let packed = |key: &str| node.stored(key).unwrap().0;
                let (their, our) = match compression {
                    "fastlz" => (0x50, 0x30),
                    "zlib" => (0x30, 0x30),
                    _ => (0, 0),
                };
                assert_eq!(
                    (packed("their-far"), packed("our-far")),
                    (their, our),
                    "{case}"
                );
                for name in [
                    "long", "object", "null", "yes", "int", "half", "noise", "text",
                ] {
                    let (a, b) = (
                        packed(&format!("their-{name}")),
                        packed(&format!("our-{name}")),
                    );
                    assert_eq!(a & 15, b & 15, "{case}, {name}");
                }
            }
        }
    }
}

#[test]
fn what_one_setting_writes_every_other_reads() {
    let node = Memcached::with(&["-I", "4m"]);
    let redis = Redis::start();
    let script = format!(
        r#"{}
        ini_set('memory_limit', '512M'); ini_set('memcache.compress_threshold', 2000);
        function pool($node, $serializer, $compression, $codec) {{
            ini_set('memring.serializer', $serializer); ini_set('memring.compression', $compression);
            ini_set('memring.codec', $codec);
            $m = new Memcache; $m->addServer($node); return $m;
        }}
        $settings = [];
        foreach (['php', 'igbinary', 'msgpack', 'json'] as $serializer)
            foreach (['zlib', 'zstd', 'lz4', 'none'] as $compression)
                foreach (['pecl', 'php-memcached'] as $codec)
                    if ($compression !== 'lz4' || $codec === 'pecl')
                        $settings[] = [$serializer, $compression, $codec];
        $all = [];
        foreach (['tcp://127.0.0.1:{}', 'redis://127.0.0.1:{}'] as $node) foreach ($settings as $writer) {{
            $m = pool($node, ...$writer);
            foreach (values() as $name => $value) if (!$m->set($name, $value)) echo "set $name\n";
            $bytes = $m->get(['far', 'long'], $flags);
            $m->set('whole', [1.0, -2.0, 0.1 + 0.2]);
            if ($m->get('whole') !== [1.0, -2.0, 0.1 + 0.2]) echo implode(' ', $writer), ": no floats\n";
            $m->set('whole', 3.0);
            $all[] = $flags['far'] . ' ' . $flags['long'];
            foreach ($settings as $reader) {{
                // pecl-memcache's way of reading knows nothing of php-memcached's flags.
                if ($reader[2] === 'pecl' && $writer[2] !== 'pecl') continue;
                // All of them once; else the first and the last of a kind.
                if ($reader[0] !== 'php' && $reader !== $writer) continue;
                $found = pool($node, ...$reader)->get(array_keys(values()));
                $wrong = wrong(expected($writer[0]), $found);
                if ($wrong !== 'all 27') echo implode(' ', $writer), ' read as ', implode(' ', $reader), ": $wrong\n";
            }}
        }}
        echo implode("\n", array_unique($all)), "\n";
        "#,
        values(),
        node.port(),
        redis.port()
    );
    let text = php().run(&script).ok();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let mut expected = vec!["0 1", "0 13", "0 4", "0 5", "0 6", "0 7", "0 9"];
    // zlib, zstd and LZ4 beside each serializer; what LZ4 cannot make a fifth smaller stays as it is.
    expected.extend([
        "2 3", "2 7", "2 11", "2 15", "18 19", "18 23", "18 27", "18 31",
    ]);
    expected.extend(["34 35", "34 39", "34 43", "34 47"]);
    expected.extend([
        "48 52", "48 53", "48 54", "48 55", "144 148", "144 149", "144 150", "144 151",
    ]);
    expected.sort_unstable();
    assert_eq!(lines, expected);
}

#[test]
fn a_serializer_that_is_not_loaded_is_named_and_nothing_is_lost() {
    let node = Memcached::start();
    let write = format!(
        "{} foreach (['igbinary', 'msgpack'] as $name) {{ ini_set('memring.serializer', $name); $m = new Memcache;
        $m->addServer('127.0.0.1', {}); var_dump($m->set($name, ['of' => $name])); }}",
        pool(&node, "php", "zlib", "pecl"),
        node.port()
    );
    assert_eq!(php().run(&write).ok(), "bool(true)\nbool(true)");
    for codec in ["pecl", "php-memcached"] {
        let script = format!(
            r#"{}
            set_error_handler(function ($level, $text) {{ echo "$level: $text\n"; return true; }});
            var_dump($m->get('igbinary'), $m->get(['msgpack', 'igbinary']), $m->add('msgpack', 'no'));
            $m = new Memcache; ini_set('memring.serializer', 'igbinary'); $m->addServer('127.0.0.1', {});
            var_dump($m->set('here', [1]), $m->set('here', 'text'), $m->get('here'), $m->set(['a' => [1], 'b' => 5]), $m->get(['a', 'b']));
            set_error_handler(function ($level, $text) {{ throw new Exception($text); }});
            try {{ $m->get('igbinary'); }} catch (Exception $e) {{ echo get_class($e), "\n"; }}
            try {{ $m->set('here', [1]); }} catch (Exception $e) {{ echo get_class($e), "\n"; }}
            "#,
            pool(&node, "php", "zlib", codec),
            node.port()
        );
        let text = Php::new().run(&script).ok();
        let not_read = |name: &str| {
            format!(
                "2: MemcachePool::get(): The value was serialized by {name}, which this PHP does not have: it is not read, and stays stored. Load the extension {name}\n"
            )
        };
        let not_stored = "2: MemcachePool::set(): The pool's serializer is igbinary, which this PHP does not have: the value is not stored. Load the extension igbinary, or write serializer = php\n";
        let expected = format!(
            "{}{}{}bool(false)\narray(0) {{\n}}\nbool(false)\n{not_stored}{not_stored}bool(false)\nbool(true)\nstring(4) \"text\"\nbool(true)\narray(1) {{\n  [\"b\"]=>\n  int(5)\n}}\nException\nException",
            not_read("igbinary"),
            not_read("msgpack"),
            not_read("igbinary"),
        );
        assert_eq!(text, expected, "{codec}");
    }
    let read = format!(
        "{} echo json_encode($m->get(['igbinary', 'msgpack']));",
        pool(&node, "php", "zlib", "pecl")
    );
    assert_eq!(
        php().run(&read).ok(),
        r#"{"igbinary":{"of":"igbinary"},"msgpack":{"of":"msgpack"}}"#
    );
}

#[test]
fn calls_from_inside_of_a_serializer_see_and_spoil_nothing_of_the_outer_one() {
    let node = Memcached::start();
    for serializer in ["php", "igbinary", "msgpack", "json"] {
        let script = format!(
            r#"{}
            class Nested implements JsonSerializable {{
                public $seen;
                function __construct(public $name = '') {{}}
                private function work($when) {{
                    global $m;
                    $m->set("in-$when", ['long' => str_repeat($when, 30000)]);
                    $got = $m->get(["in-$when", 'plain']);
                    return [strlen($got["in-$when"]['long']), $got['plain'], $m->increment('count')];
                }}
                function __serialize(): array {{ return ['name' => $this->name, 'seen' => $this->work('w')]; }}
                function __unserialize(array $data): void {{
                    $this->name = $data['name']; $this->seen = [...$data['seen'], ...$this->work('r')];
                }}
                function jsonSerialize(): mixed {{ return $this->__serialize(); }}
            }}
            class Thrower implements JsonSerializable {{
                function __serialize(): array {{ throw new Exception('while writing'); }}
                function jsonSerialize(): mixed {{ throw new Exception('while writing'); }}
            }}
            class Late {{ public $a = 1; function __unserialize(array $data): void {{ throw new Exception('while reading'); }} function __serialize(): array {{ return ['a' => 1]; }} }}
            $m->set('plain', 'text'); $m->set('count', 0);
            $m->set(['one' => [new Nested('a'), 'tail'], 'two' => ['head', new Nested('b')], 'three' => 'end']);
            $got = $m->get(['one', 'plain', 'two', 'three']);
            echo json_encode(array_map(fn($v) => is_array($v) ? array_map(fn($x) => is_object($x) ? ['name' => $x->name, 'seen' => $x->seen] : $x, $v) : $v, $got)), "\n";
            try {{ $m->set(['x' => 1, 'y' => [new Thrower]]); }} catch (Exception $e) {{ echo $e->getMessage(), ' ', json_encode($m->get(['x', 'y'])), "\n"; }}
            $m->set('late', new Late);
            try {{ echo json_encode($m->get('late')), "\n"; }} catch (Exception $e) {{ echo $e->getMessage(), "\n"; }}
            $loop = []; $loop['self'] = &$loop; $loop['n'] = 5;
            echo json_encode(@$m->set('loop', $loop)), ' ', json_encode($m->get('plain')), "\n";
            "#,
            pool(&node, serializer, "lz4", "pecl")
        );
        let text = php().run(&script).ok();
        let lines: Vec<&str> = text.lines().collect();
        let seen = |count: u32| match serializer {
            "json" => format!("[30000,\"text\",{count}]"),
            _ => format!("[30000,\"text\",{count},30000,\"text\",{}]", count + 2),
        };
        let one = format!(
            r#"{{"one":[{{"name":"a","seen":{}}},"tail"],"plain":"text","two":["head",{{"name":"b","seen":{}}}],"three":"end"}}"#,
            seen(1),
            seen(2)
        );
        assert_eq!(lines[0], one, "{serializer}");
        assert_eq!(lines[1], "while writing []", "{serializer}");
        let late = match serializer {
            "json" => r#"{"a":1}"#,
            _ => "while reading",
        };
        assert_eq!(lines[2], late, "{serializer}");
        let loops = match serializer {
            "json" => "false",
            _ => "true",
        };
        assert_eq!(lines[3], format!("{loops} \"text\""), "{serializer}");
    }
}

#[test]
fn damaged_values_bring_nothing_down_and_leave_other_values_alone() {
    let node = Memcached::start();
    let script = format!(
        r#"{}
        $raw = fsockopen('127.0.0.1', {});
        $samples = [];
        foreach (['php', 'igbinary', 'msgpack', 'json'] as $serializer) foreach (['zlib', 'zstd', 'lz4', 'none'] as $compression) {{
            ini_set('memring.serializer', $serializer); ini_set('memring.compression', $compression);
            ini_set('memcache.compress_threshold', 10);
            $w = new Memcache; $w->addServer('127.0.0.1', {});
            $w->set('k', ['text' => str_repeat('some text ', 20), 'list' => range(1, 30)]); $w->get('k', $flags);
            fwrite($raw, "get k\r\n"); $head = fgets($raw); $body = stream_get_contents($raw, (int)explode(' ', $head)[3]);
            fgets($raw); fgets($raw); $samples[] = [$flags, $body];
        }}
        $told = 0; set_error_handler(function () use (&$told) {{ return (bool)++$told; }});
        mt_srand(11);
        $good = $w->get('k');
        for ($i = 0; $i < 6000; $i++) {{
            [$flags, $body] = $samples[$i % count($samples)];
            $at = mt_rand(0, strlen($body) - 1);
            switch (mt_rand(0, 2)) {{
                case 0: $body = substr($body, 0, $at); break;
                case 1: $body[$at] = chr(mt_rand(0, 255)); break;
                case 2: $flags = mt_rand(0, 63); break;
            }}
            fwrite($raw, "set d $flags 0 " . strlen($body) . "\r\n$body\r\n"); fgets($raw);
            $m->get('d');
            $m->get(['d', 'd2']);
        }}
        fwrite($raw, "set end 0 0 3\r\nend\r\n"); fgets($raw);
        var_dump($m->get('end'), $m->get('k') == $good, $told > 2000);
        "#,
        pool(&node, "php", "zlib", "pecl"),
        node.port(),
        node.port()
    );
    assert_eq!(
        php().run(&script).ok(),
        "string(3) \"end\"\nbool(true)\nbool(true)"
    );
}

#[test]
fn a_pool_of_the_file_has_a_format_of_its_own_and_one_that_cannot_be_is_refused() {
    let node = Memcached::start();
    let directory = TempDir::new("format");
    let run = |body: &str, script: &str| {
        let text = format!(
            "[pool.p]\nnodes = [\"tcp://127.0.0.1:{}\"]\n{body}\n",
            node.port()
        );
        let path = directory.file("memring.toml", &text);
        php()
            .ini("memring.config_file", path.display())
            // For pools that addServer() makes, and no other.
            .ini("memring.serializer", "json")
            .run(&format!("set_error_handler(function ($level, $text) {{ echo \"$text\\n\"; return true; }});\n{script}"))
            .ok()
    };
    let store = "$m = new Memcache; var_dump($m->addServer('pool:p')); $m->set('k', ['a' => str_repeat('x', 30000)]); $m->get('k', $flags); echo $flags, \"\\n\";";
    for (body, flags) in [
        ("", 3),
        ("serializer = \"igbinary\"", 7),
        ("serializer = \"msgpack\"\ncompression = \"zstd\"", 27),
        ("compression = \"lz4\"", 35),
        ("compression = \"none\"", 1),
        ("codec = \"php-memcached\"\nserializer = \"json\"", 54),
    ] {
        assert_eq!(run(body, store), format!("bool(true)\n{flags}"), "{body}");
    }
    for (body, message) in [
        (
            "serializer = \"xml\"",
            "line 3: serializer \"xml\" is unknown. Write serializer = one of \"php\", \"igbinary\", \"msgpack\", \"json\", \"json_object\"",
        ),
        (
            "compression = \"fastlz\"",
            "line 3: compression \"fastlz\" is unknown. Write compression = one of \"zlib\", \"zstd\", \"lz4\", \"none\"",
        ),
        (
            "codec = \"php-memcached\"\ncompression = \"lz4\"",
            "line 4: php-memcached has no flag for lz4. Write compression = \"zlib\", which every php-memcached reads, or \"zstd\" for 3.3",
        ),
        (
            "mode = \"fenced\"\nserializer = \"json\"",
            "serializer, compression and codec are for values, and sessions with copies are kept as PHP wrote them",
        ),
    ] {
        let text = run(
            body,
            "$m = new Memcache; var_dump($m->addServer('pool:p'));",
        );
        assert!(
            text.contains(message) && text.ends_with("bool(false)"),
            "{body}: {text}"
        );
    }
    let text = run("", &format!(
        "foreach (['serializer' => 'xml', 'compression' => 'fastlz', 'codec' => ''] as $name => $bad) var_dump(ini_set(\"memring.$name\", $bad));
        ini_set('memring.compression', 'lz4'); ini_set('memring.codec', 'php-memcached'); $m = new Memcache;
        var_dump($m->addServer('127.0.0.1', {port}), $m->addServer('tcp://127.0.0.1:{port}?compression=zstd'), $m->addServer('tcp://127.0.0.1:{port}?serializer=json'));",
        port = node.port()
    ));
    for part in [
        "memring.serializer must be in set {php, igbinary, msgpack, json, json_object} ('xml' given)\nbool(false)",
        "memring.compression must be in set {zlib, zstd, lz4, none, off} ('fastlz' given)\nbool(false)",
        "memring.codec must be in set {pecl, php-memcached} ('' given)\nbool(false)",
        "php-memcached has no flag for lz4",
        "compression and drain are a whole pool's, not one server's",
        "serializer is for values, and a list is for sessions",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.ends_with("bool(false)"), "{text}");
}

#[test]
fn sessions_are_compressed_as_their_list_says_and_read_under_every_other() {
    let node = Memcached::start();
    let mut flags = Vec::new();
    for (query, read) in [
        ("zstd", "none"),
        ("lz4", "zlib"),
        ("none", "zstd"),
        ("zlib", "lz4"),
    ] {
        let run = |option: &str, script: &str| {
            php()
                .ini("session.save_handler", "memcache")
                .ini("session.use_cookies", 0)
                .ini("session.cache_limiter", "")
                .ini(
                    "session.save_path",
                    format!("tcp://127.0.0.1:{}?compression={option}", node.port()),
                )
                .run(&format!(
                    "session_id('s{query}'); session_start(); {script}"
                ))
                .ok()
        };
        run(query, "$_SESSION['x'] = str_repeat('session ', 9000);");
        assert_eq!(
            run(read, "echo strlen($_SESSION['x']);"),
            "72000",
            "{query}"
        );
        flags.push(node.stored(&format!("s{query}")).unwrap().0);
    }
    assert_eq!(flags, [18, 34, 0, 2]);
    let text = php()
        .ini("session.save_handler", "memring")
        .ini(
            "session.save_path",
            "tcp://127.0.0.1:1?compression=zstd, tcp://127.0.0.1:2",
        )
        .run("var_dump(session_start());")
        .text();
    assert!(
        text.contains("sessions with copies are kept as PHP wrote them")
            && text.contains("bool(false)"),
        "{text}"
    );
}
