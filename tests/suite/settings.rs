//! The settings stand in one table of the extension; README.md and php/memring.ini are made from it.
//!
//! The table is read from the built extension, as phpinfo shows it. `MEMRING_WRITE_DOCS=1 cargo test -p
//! memring-tests settings` writes both files anew; without it the test says where they differ.

use harness::{Php, workspace};
use std::fmt::Write;

/// One row of the table.
struct Setting {
    name: String,
    default: String,
    sentence: String,
    /// Range, unit and place, as one text.
    range: String,
}

/// All settings, the original's and memring's own, in the order of the code.
fn settings() -> Vec<Setting> {
    let script = r#"
        foreach (['memcache', 'memring'] as $module) {
            ob_start();
            (new ReflectionExtension($module))->info();
            foreach (explode("\n", ob_get_clean()) as $line) {
                if (preg_match('/^(mem\w+\.\w+) => (.*) \[(.*)\]$/', $line, $part)) {
                    echo implode("\t", [$part[1], ini_get($part[1]), $part[2], $part[3]]), "\n";
                }
            }
        }
    "#;
    // Bare: the harness sets some of them for its own ends.
    let php = Php::bare().extension(harness::php::extension());
    let text = php.run(script).ok();
    let settings: Vec<Setting> = text
        .lines()
        .map(|line| {
            let parts: Vec<&str> = line.split('\t').collect();
            assert_eq!(parts.len(), 4, "{line}");
            Setting {
                name: parts[0].to_owned(),
                default: parts[1].to_owned(),
                sentence: parts[2].to_owned(),
                range: parts[3].to_owned(),
            }
        })
        .collect();
    assert!(settings.len() > 21, "{text}");
    settings
}

/// Compares `made` with the file, or writes it when asked to.
fn keep(file: &str, made: &str) {
    let path = workspace().join(file);
    if std::env::var_os("MEMRING_WRITE_DOCS").is_some() {
        std::fs::write(&path, made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == made,
        "{file} is not what the settings table makes of it. Run MEMRING_WRITE_DOCS=1 cargo test -p memring-tests settings"
    );
}

#[test]
fn the_sample_ini_shows_every_setting_with_its_default() {
    let mut made = String::from(
        "; memring: PHP's Memcache API and sessions on pools of memcached.\n\
         ; Every setting with its default; take away the semicolon to change one.\n\
         \n\
         extension = memring.so\n\
         \n\
         ; Sessions in memcached, with the bytes and places of pecl-memcache:\n\
         ;session.save_handler = memcache\n\
         ;session.save_path = \"tcp://127.0.0.1:11211\"\n",
    );
    for setting in settings() {
        let Setting {
            name,
            default,
            sentence,
            range,
        } = setting;
        write!(made, "\n; {sentence}\n; {range}\n;{name} = {default}\n").unwrap();
    }
    let made: String = made
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    keep("php/memring.ini", &made);
}

#[test]
fn the_readme_lists_every_setting_of_the_table() {
    const BEGIN: &str = "<!-- settings: made from the table in src/extension/ini.rs -->\n";
    const END: &str = "<!-- end of settings -->\n";
    let readme = std::fs::read_to_string(workspace().join("README.md")).unwrap();
    let (head, rest) = readme
        .split_once(BEGIN)
        .expect("README.md has the marker of the settings");
    let (_, tail) = rest
        .split_once(END)
        .expect("README.md has the end marker of the settings");
    let mut table =
        String::from("| setting | default | may be | what it does |\n|---|---|---|---|\n");
    for Setting {
        name,
        default,
        sentence,
        range,
    } in settings()
    {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!("`{default}`")
        };
        writeln!(table, "| `{name}` | {default} | {range} | {sentence} |").unwrap();
    }
    keep("README.md", &format!("{head}{BEGIN}{table}{END}{tail}"));
}
