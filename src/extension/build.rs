//! Makes the Rust side of `zend.h` for the PHP that `php-config` names.
//!
//! ext-php-rs binds most of Zend already; this adds what it leaves out, and reuses
//! its types, so that a value of one is a value of the other.

use std::error::Error;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

/// Functions of Zend and PHP that ext-php-rs does not bind.
const FUNCTIONS: &[&str] = &[
    "_zend_handle_numeric_str_ex",
    "display_ini_entries",
    "get_active_class_name",
    "get_active_function_name",
    "object_init_ex",
    "php_log_err_with_severity",
    "php_var_serialize",
    "php_var_serialize_destroy",
    "php_var_serialize_init",
    "php_var_unserialize",
    "php_var_unserialize_destroy",
    "php_var_unserialize_init",
    "var_tmp_var",
    "zend_add_attribute",
    "zend_declare_property_null",
    "zend_list_delete",
    "zend_try_assign_typed_ref",
    "zend_get_constant_str",
    "zend_ini_boolean_displayer_cb",
    "zend_is_true",
    "zend_memory_usage",
    "zend_is_auto_global_str",
    "zend_parse_arg_bool_slow",
    "zend_parse_arg_double_slow",
    "zend_parse_arg_long_slow",
    "zend_parse_arg_str_slow",
    "zend_register_internal_class_ex",
    "zend_register_internal_module",
    "zend_register_list_destructors_ex",
    "zend_register_resource",
    "zend_unregister_ini_entries",
    "zend_update_property",
    "zend_wrong_param_count",
    "zend_wrong_parameter_class_error",
    "zend_wrong_parameter_type_error",
    "zval_try_get_string_func",
];

/// Types that ext-php-rs does not bind.
const TYPES: &[&str] = &[
    "ps_module",
    "ps_module_struct",
    "smart_str",
    "php_serialize_data_t",
    "php_unserialize_data_t",
    "_zend_attribute",
    "zend_attribute",
    "zend_attribute_arg",
    "rsrc_dtor_func_t",
    "zend_internal_function_info",
    "_zend_internal_function_info",
];

/// Variables and constants that ext-php-rs does not bind.
const VARIABLES: &[&str] = &["MEMRING_.*", "module_registry"];

fn main() -> Result<(), Box<dyn Error>> {
    let php_config = env::var("PHP_CONFIG").unwrap_or_else(|_| "php-config".to_owned());
    println!("cargo:rerun-if-env-changed=PHP_CONFIG");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=zend.h");
    let answer = Command::new(&php_config)
        .arg("--includes")
        .output()
        .map_err(|error| format!("{php_config}: {error}. Is php-dev installed?"))?;
    let includes = String::from_utf8(answer.stdout)?;
    let mut builder = bindgen::Builder::default()
        .header("zend.h")
        .clang_args(includes.split_whitespace())
        .allowlist_recursively(false)
        .raw_line("use ext_php_rs::ffi::*;")
        .raw_line("use ext_php_rs::ffi::_zend_expected_type as zend_expected_type;")
        .raw_line("pub type zend_uintptr_t = usize;")
        .raw_line("pub enum php_serialize_data {}")
        .raw_line("pub enum php_unserialize_data {}")
        .derive_debug(false)
        .layout_tests(false)
        .generate_comments(false);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(name);
    }
    let path = PathBuf::from(env::var("OUT_DIR")?).join("zend.rs");
    fs::write(path, builder.generate()?.to_string())?;
    Ok(())
}
