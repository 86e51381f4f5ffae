//! Nodes without a server in places that belong to others: each refused with one clear error, and left as it was.

use crate::embedded::Directory;
use crate::sessions::with_sessions;
use harness::{Php, PhpFpm};
use rustix::fs::{Uid, chown};
use rustix::process::geteuid;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Whose files nobody needs; and somebody else.
const NOBODY: u32 = 65534;
const OTHER: u32 = 54_321;

fn give(path: &Path, user: u32) {
    chown(path, Some(Uid::from_raw(user)), None).expect("give it to that user");
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A file in this directory, of this user and for nobody else.
fn file_of(user: u32, directory: &Path, name: &str) {
    let path = directory.join(name);
    std::fs::write(&path, "precious").unwrap();
    permit(&path, 0o600);
    give(&path, user);
}

/// The names in a directory, and what is in them.
fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut content: Vec<_> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    content.sort();
    content
}

/// A value stored and asked for; and a session.
fn pages(node: &str) -> [String; 2] {
    let calls = format!(
        "$m = new Memcache; $m->addServer('{node}'); var_dump($m->set('k', 'v'), $m->get('k'));"
    );
    [
        calls,
        "session_id('s'); var_dump(session_start());".to_owned(),
    ]
}

/// What php-fpm of a user that owns nothing says to them.
fn to_nobody(node: &str) -> [String; 2] {
    let php = with_sessions(Php::new(), node)
        .ini("session.save_handler", "memring")
        .ini("memring.shared", "off");
    let fpm = PhpFpm::of(&php, 1, "", Some(NOBODY));
    pages(node).map(|page| {
        fpm.page("page.php", &page);
        fpm.get("page.php", "", "").text()
    })
}

/// All of it fails, each page says why once, and nothing that was there is another, and nothing new.
#[track_caller]
fn is_refused(said: [String; 2], directory: &Path, before: &[(String, Vec<u8>)], words: [&str; 2]) {
    let place = directory.display();
    for (text, calls) in said.iter().zip([2, 1]) {
        assert_eq!(
            text.matches("bool(false)").count(),
            calls,
            "{place}: {text}"
        );
        for words in words {
            assert_eq!(text.matches(words).count(), 1, "{place}, {words}: {text}");
        }
    }
    assert!(content(directory) == before, "{place} has another content");
}

#[test]
fn a_place_that_a_pools_user_may_not_write_or_that_is_anothers_is_refused_and_left_as_it_was() {
    if !geteuid().is_root() {
        harness::skip("only root may run PHP as another user");
        return;
    }
    let base = Directory::new("embedded-users");
    let sub = |name: &str, user: u32, mode: u32| {
        let path = base.path().join(name);
        std::fs::create_dir(&path).unwrap();
        permit(&path, mode);
        give(&path, user);
        path
    };
    let file = format!("memring-{NOBODY}.mdb");
    let roots = sub("roots", 0, 0o755);
    let closed = sub("closed", NOBODY, 0o500);
    let others = sub("others", OTHER, 0o777);
    let [database, lock] = ["database", "lock"].map(|name| sub(name, NOBODY, 0o700));
    file_of(0, &database, &file);
    file_of(OTHER, &lock, &format!("{file}-lock"));
    for (directory, words) in [
        (
            &roots,
            [
                "Permission denied",
                "Name a directory that user 65534 may write",
            ],
        ),
        (
            &closed,
            [
                "Permission denied",
                "Name a directory that user 65534 may write",
            ],
        ),
        (
            &others,
            [
                "the directory belongs to user 54321, not to 65534",
                "Chown it to 65534",
            ],
        ),
        (
            &database,
            [
                "it belongs to user 0, not to 65534",
                "Remove it, or name another directory",
            ],
        ),
        (
            &lock,
            [
                "it belongs to user 54321, not to 65534",
                "Remove it, or name another directory",
            ],
        ),
    ] {
        let before = content(directory);
        let node = format!("embedded://{}", directory.display());
        let said = to_nobody(&node);
        is_refused(said, directory, &before, words);
    }
    // In a place of its own the same user is served.
    let own = sub("own", NOBODY, 0o700);
    let node = format!("embedded://{}", own.display());
    let said = to_nobody(&node);
    assert_eq!(said, ["bool(true)\nstring(1) \"v\"", "bool(true)"]);
}

#[test]
fn root_too_takes_neither_a_database_nor_a_directory_of_another_user() {
    if !geteuid().is_root() {
        harness::skip("only root may give files away");
        return;
    }
    let base = Directory::new("embedded-root");
    let [database, lock, directory] = ["database", "lock", "directory"].map(|name| {
        let path = base.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    });
    file_of(OTHER, &database, "memring-0.mdb");
    file_of(OTHER, &lock, "memring-0.mdb-lock");
    give(&directory, OTHER);
    for (directory, words) in [
        (
            &database,
            [
                "it belongs to user 54321, not to 0",
                "Remove it, or name another directory",
            ],
        ),
        (
            &lock,
            [
                "it belongs to user 54321, not to 0",
                "Remove it, or name another directory",
            ],
        ),
        (
            &directory,
            [
                "the directory belongs to user 54321, not to 0",
                "Chown it to 0",
            ],
        ),
    ] {
        let before = content(directory);
        let node = format!("embedded://{}", directory.display());
        // Each in a process that knows nothing of the other's failure.
        let said = pages(&node).map(|page| {
            let php = with_sessions(Php::new(), &node).ini("session.save_handler", "memring");
            php.run(&page).text()
        });
        is_refused(said, directory, &before, words);
    }
}
