//! Both extensions in one PHP, in either order, and what the module says of itself.

use harness::{Memcached, Php, php};

/// What a script sees of the two names, and that the class works.
const LOOK: &str = r#"
$m = new Memcache; $m->connect('127.0.0.1', (int)getenv('PORT')); $m->set('k', [1]);
$ours = new Memring\Memcache; $ours->connect('127.0.0.1', (int)getenv('PORT'));
echo json_encode([extension_loaded('memcache'), extension_loaded('memring'), $m->get('k'), $ours->get('k'),
    (new ReflectionClass('Memcache'))->getExtensionName(), (new ReflectionExtension('memcache'))->getVersion() >= '8.2']);
"#;

#[test]
fn alone_it_provides_both_modules_without_a_word() {
    let server = Memcached::start();
    let text = Php::new().env("PORT", server.port()).run(LOOK).ok();
    assert_eq!(text, r#"[true,true,[1],[1],"memcache",true]"#);
}

#[test]
fn beside_the_original_in_either_order_both_work_and_one_notice_names_the_winner() {
    let Some(original) = php::original() else {
        harness::skip("MEMRING_PECL_SO names no build of pecl-memcache");
        return;
    };
    let server = Memcached::start();
    for ours_first in [true, false] {
        let php = Php::bare()
            .env("PORT", server.port())
            .ini("display_startup_errors", 1);
        let php = match ours_first {
            true => php.extension(php::extension()).extension(&original),
            false => php.extension(&original).extension(php::extension()),
        };
        let output = php.run(LOOK);
        let text = output.ok();
        assert!(
            text.ends_with(r#"[true,true,[1],[1],"memcache",true]"#),
            "ours first: {ours_first}: {text}"
        );
        let notices = text.matches("memring").count();
        assert!(
            notices >= 1,
            "ours first: {ours_first}: no notice names the winner: {text}"
        );
        assert_eq!(
            text.matches("Warning: ").count() + text.matches("Notice: ").count(),
            1,
            "ours first: {ours_first}: {text}"
        );
    }
}

#[test]
fn dl_is_refused_with_the_line_to_write_and_leaves_php_whole() {
    let file = php::extension();
    let text = Php::bare()
        .ini("extension_dir", file.parent().unwrap().display())
        .ini("enable_dl", 1)
        .run(&format!(
            "echo 'before '; dl('{}'); echo 'after';",
            file.file_name().unwrap().to_str().unwrap()
        ));
    let all = String::from_utf8_lossy(&[text.stdout, text.stderr].concat()).to_string();
    assert!(
        all.contains("before") && all.contains("Write extension=memring into php.ini"),
        "{all}"
    );
    // PHP ends a script whose dl() is refused by the module; what it must not do is die of a signal.
    assert_eq!(text.code, Some(255), "{all}");
}

#[test]
fn ri_says_who_provides_the_class() {
    let output = std::process::Command::new(php::binary())
        .args(Php::new().arguments())
        .args(["--ri", "memring"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).to_string();
    assert!(
        output.status.success() && text.contains("Memcache"),
        "{text}"
    );
}

#[test]
fn ipv6_and_unix_sockets_are_reached() {
    let on_socket = Memcached::on_socket();
    let text = Php::new().run(&format!(
        "$m = new Memcache; echo json_encode([$m->connect('unix://{0}', 0), $m->set('k', 1), $m->get('k'), $m->findServer('k')]);",
        on_socket.socket().display()
    ));
    let expected = format!(
        "[true,true,1,\"unix:\\/\\/{}:0\"]",
        on_socket.socket().display().to_string().replace('/', "\\/")
    );
    assert_eq!(text.ok(), expected);
    let Ok(probe) = std::net::TcpListener::bind("[::1]:0") else {
        harness::leave_out("this machine has no IPv6 loopback");
        return;
    };
    drop(probe);
    let server = Memcached::with(&["-l", "::1"]);
    let port = server.port();
    for host in ["::1", "[::1]"] {
        let text = Php::new()
            .run(&format!("$m = new Memcache; echo json_encode([$m->connect('{host}', {port}), $m->set('k', 1), $m->get('k')]);"));
        assert_eq!(text.ok(), "[true,true,1]", "{host}");
    }
}
