//! php_info_print_table_*: phpinfo() and `php --ri`.

use ext_php_rs::ffi::{
    php_info_print_table_end, php_info_print_table_row, php_info_print_table_start,
};
use std::ffi::CString;

/// Prints one table of rows of two columns.
pub(crate) fn table(rows: &[(&str, String)]) {
    // SAFETY: inside an info function; each row passes as many NUL-terminated strings as it says.
    unsafe {
        php_info_print_table_start();
        for (name, value) in rows {
            let (Ok(name), Ok(value)) = (CString::new(*name), CString::new(value.as_str())) else {
                continue;
            };
            php_info_print_table_row(2, name.as_ptr(), value.as_ptr());
        }
        php_info_print_table_end();
    }
}
