//! F22: state directories that cannot hold what the processes of a host share. Nothing is lost by that, only
//! learned more slowly: each master process learns for itself which nodes are away.

use super::nothing_is_lost;
use super::scripts::back_empty;
use super::stage::{Plan, Scene, Servers, Web};
use harness::{Php, TempDir, wait_until};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Whose files nobody needs.
const NOBODY: u32 = 65534;

/// What stands where `memring.state_dir` points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A directory with room.
    Directory,
    /// A file.
    File,
    /// A directory that PHP's user may not write to.
    Forbidden,
    /// A disk of so many KiB.
    Disk(u64),
}

impl State {
    /// Makes it inside `directory`.
    pub(super) fn make(self, directory: &TempDir) -> Place {
        let path = directory.path().join("state");
        let mode = |mode| {
            std::fs::create_dir(&path).expect("make the state directory");
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).expect("its mode");
        };
        let mut place = Place {
            path: path.clone(),
            user: None,
            disk: None,
        };
        match self {
            State::Directory => mode(0o755),
            State::File => drop(directory.file("state", "a file, where a directory should be")),
            State::Forbidden => {
                mode(0o555);
                place.user = Some(NOBODY);
            }
            State::Disk(size) => {
                mode(0o755);
                place.disk = Some(Disk::mount(&path, size).expect("a small disk was mounted"));
            }
        }
        place
    }
}

/// A state directory, and who runs PHP and tend because of it.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) user: Option<u32>,
    disk: Option<Disk>,
}

impl Place {
    /// Writes until the disk is full.
    pub(super) fn fill(&self) {
        assert!(self.disk.is_some());
        let mut file = std::fs::File::create(self.path.join("filler")).expect("make a file");
        let written = wait_until(Duration::from_secs(10), || {
            file.write_all(&[0; 65536]).is_err()
        });
        assert!(written, "the disk is never full");
    }
}

/// A memory disk; dropping it takes it away.
pub(super) struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount.
    fn mount(path: &Path, size: u64) -> Option<Disk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}k"), "tmpfs"])
            .arg(path)
            .output()
            .ok()?;
        mounted.status.success().then(|| Disk(path.to_path_buf()))
    }

    /// Whether this user may mount one.
    pub(super) fn possible() -> bool {
        let directory = TempDir::new("mount");
        Disk::mount(directory.path(), 64).is_some()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once, though a process may still have a file of it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// The file that the workers of this host share, as `Memring\status()` has it; empty where there is none.
pub(super) fn shared_file(web: &Web) -> String {
    let page = "echo Memring\\status()['host']['file'] ?? '';";
    let text = web.show("state.php", page);
    text.trim().to_string()
}

fn nothing_is_shared(scene: &mut Scene<'_>) {
    assert_eq!(shared_file(&scene.hosts[0]), "", "the fault is none");
    back_empty(scene);
}

fn plan(name: &'static str, servers: Servers, state: State) -> Plan {
    Plan {
        state,
        ..Plan::new(name, servers)
    }
}

#[test]
fn f22_without_a_state_directory_nothing_is_lost() {
    for servers in Servers::each_kind() {
        let plan = plan("F22 no state directory", servers, State::File);
        nothing_is_lost(&plan.play(nothing_is_shared));
    }
}

#[test]
fn f22_without_permission_to_write_the_state_nothing_is_lost() {
    for servers in Servers::each_kind() {
        let plan = plan("F22 no permission", servers, State::Forbidden);
        nothing_is_lost(&plan.play(nothing_is_shared));
    }
}

#[test]
fn f22_with_a_full_disk_for_the_state_nothing_is_lost() {
    if !Disk::possible() {
        harness::skip("a small disk cannot be mounted (that takes root)");
        return;
    }
    for servers in Servers::each_kind() {
        let full = plan("F22 disk full", servers, State::Disk(64));
        nothing_is_lost(&full.play(nothing_is_shared));
        // What is shared had its room from the beginning: a disk that fills up later takes nothing away.
        let fills = plan("F22 disk fills up", servers, State::Disk(64 << 10));
        let tally = fills.play(|scene| {
            assert_ne!(shared_file(&scene.hosts[0]), "");
            scene.hosts[0].state.fill();
            back_empty(scene);
        });
        nothing_is_lost(&tally);
        assert_eq!(tally.broken, 0, "{tally}");
    }
}

#[test]
fn f22_a_database_without_a_server_says_that_its_disk_is_full_and_keeps_what_it_has() {
    if !Disk::possible() {
        harness::skip("a small disk cannot be mounted (that takes root)");
        return;
    }
    let directory = TempDir::new("full");
    let place = State::Disk(16 << 10).make(&directory);
    let php = Php::new();
    let page = |work: &str| {
        php.run(&format!(
            "$m = new Memcache; $m->addServer('embedded://{}'); {work}",
            place.path.display()
        ))
        .ok()
    };
    let kept = "$kept = 0; for ($i = 0; $i < 50; $i++) $kept += $m->get(\"early$i\") === \"v$i\"; echo $kept;";
    assert_eq!(
        page(&format!(
            "for ($i = 0; $i < 50; $i++) $m->set(\"early$i\", \"v$i\"); {kept}"
        )),
        "50"
    );
    place.fill();
    // The last try finds the disk full to its last byte.
    for _ in 0..3 {
        let said = page("var_dump($m->set('large', random_bytes(500000)));");
        let wanted = [
            "bool(false)",
            "out of memory",
            "has no room",
            "empty its disk",
        ];
        for wanted in wanted {
            assert!(said.contains(wanted), "{wanted} is not in {said}");
        }
        assert_eq!(page(kept), "50", "{said}");
    }
    std::fs::remove_file(place.path.join("filler")).expect("take the filler away");
    assert_eq!(
        page("var_dump($m->set('large', random_bytes(500000)));"),
        "bool(true)"
    );
    assert_eq!(page(kept), "50");
}

#[test]
fn f22_a_database_that_finds_its_disk_full_says_so_each_time_and_begins_when_there_is_room() {
    if !Disk::possible() {
        harness::skip("a small disk cannot be mounted (that takes root)");
        return;
    }
    let directory = TempDir::new("full-before");
    let place = State::Disk(16 << 10).make(&directory);
    place.fill();
    let page = || {
        // Each knows nothing of the tries before it.
        let script = format!(
            "$m = new Memcache; $m->addServer('embedded://{}'); var_dump($m->set('a', 'b'));",
            place.path.display()
        );
        Php::new().run(&script).ok()
    };
    for _ in 0..3 {
        let said = page();
        for wanted in ["bool(false)", "No space left", "Give its disk room"] {
            assert!(said.contains(wanted), "{wanted} is not in {said}");
        }
    }
    std::fs::remove_file(place.path.join("filler")).expect("take the filler away");
    assert_eq!(page(), "bool(true)");
}

/// In Docker /dev/shm has 64 MB, which is the size of a database where none is written.
#[test]
fn f22_a_database_on_a_disk_smaller_than_its_size_lets_go_of_the_oldest_and_goes_on() {
    if !Disk::possible() {
        harness::skip("a small disk cannot be mounted (that takes root)");
        return;
    }
    let directory = TempDir::new("small");
    let place = State::Disk(16 << 10).make(&directory);
    let said = Php::new()
        .run(&format!(
            "$m = new Memcache; $m->addServer('embedded://{}'); $done = 0;
             for ($i = 0; $i < 600; $i++) $done += $m->set(\"k$i\", random_bytes(100000));
             echo $done, ' ', strlen($m->get('k599')), ' ', json_encode($m->get('k0'));",
            place.path.display()
        ))
        .ok();
    assert_eq!(said, "600 100000 false");
}
