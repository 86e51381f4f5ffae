//! What README.md shows first works as it stands there.

use harness::{Php, workspace};
use rustix::process::geteuid;
use std::path::{Path, PathBuf};

/// The example's database, if nobody had one there before.
struct Ours(Vec<PathBuf>);

impl Drop for Ours {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[test]
fn the_first_example_of_the_readme_runs_as_it_stands_and_the_next_process_has_its_value() {
    let shm = Path::new("/dev/shm");
    if !shm.is_dir() {
        harness::skip("there is no /dev/shm, which the example names");
        return;
    }
    let database = shm.join(format!("memring-{}.mdb", geteuid().as_raw()));
    let _ours = Ours(match database.exists() {
        true => Vec::new(),
        false => vec![database.clone(), database.with_extension("mdb-lock")],
    });
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let (_, rest) = readme.split_once("```php\n").expect("an example in PHP");
    let (example, _) = rest.split_once("```").expect("an end of the example");
    let told = Php::new().run(example).ok();
    assert_eq!(told, "hello", "{example}");
    let reads: String = example
        .lines()
        .filter(|line| !line.contains("->set("))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_ne!(reads, example);
    assert_eq!(Php::new().run(&reads).ok(), "hello", "{reads}");
}
