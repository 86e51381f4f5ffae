//! The stubs for editors are the built extension, seen through Reflection.

use harness::{Php, workspace};

#[test]
fn the_stubs_name_every_method_function_parameter_and_constant() {
    let output = Php::new().run_file(&workspace().join("tests/suite/php/stubs.php"));
    let text = output.ok();
    let count = text
        .strip_prefix("equal: ")
        .and_then(|rest| rest.split(' ').next());
    // 23 + 7 methods, 24 functions, and what Memring\Memcache adds; fewer would mean that nothing was compared.
    assert!(
        count.is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n >= 50)),
        "{text}"
    );
}
