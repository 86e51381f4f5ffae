//! 140 odd calls of the Memcache API: each one's messages and result, as the original gives them.

use crate::golden::{self, Difference};
use harness::{Memcached, Php, Proxy, free_port};

/// The ports the probe was recorded with: a memcached, a proxy before it, nobody.
const RECORDED: [u16; 3] = [28811, 28821, 28899];

/// Runs the probe on free ports and writes the recorded ones back into its output.
fn probe(php: &Php) -> String {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let ports = [server.port(), proxy.port(), free_port()];
    let mut script = golden::read("api-probe.php");
    for (recorded, now) in RECORDED.iter().zip(ports) {
        script = script.replace(&recorded.to_string(), &now.to_string());
    }
    let mut text = String::from_utf8_lossy(&php.run(&script).stdout).to_string();
    for (recorded, now) in RECORDED.iter().zip(ports) {
        text = text.replace(&now.to_string(), &recorded.to_string());
    }
    normal(&text)
}

/// What depends on the moment or the machine and not on the extension.
fn normal(text: &str) -> String {
    // A machine without a resolver says this about an unknown name.
    text.replace(
        "Temporary failure in name resolution",
        "Name or service not known",
    )
}

const DIFFERENCES: &[Difference] = &[];

#[test]
fn every_odd_call_answers_as_the_original_does() {
    golden::compare(
        &golden::read("api-probe.txt"),
        &probe(&Php::new()),
        DIFFERENCES,
    );
}

#[test]
fn the_original_repeats_its_own_api_record() {
    let Some(original) = golden::original() else {
        return;
    };
    let php = Php::bare().extension(original);
    golden::compare(&golden::read("api-probe.txt"), &probe(&php), &[]);
}
