//! SECURITY.md names code and a test for what it says: both are there.

use std::fs;

use tidemill_tests::sandbox::repository;

use crate::readme::{links, tests_of};

#[test]
fn what_security_md_says_is_shown_by_tests_and_code_that_are_there() {
    let text = fs::read_to_string(repository().join("SECURITY.md")).unwrap();
    let (mut tests, mut files) = (0, 0);
    for (line, number) in text.lines().zip(1..) {
        for (test, file) in links(line) {
            let found = tests_of(&repository().join(file)).iter().filter(|name| name.starts_with(test)).count();
            assert_eq!(found, 1, "SECURITY.md:{number}: tests {test}* in {file}");
            tests += 1;
        }
        for rest in line.split("](").skip(1) {
            let file = rest.split(')').next().unwrap();
            assert!(repository().join(file).is_file(), "SECURITY.md:{number}: there is no {file}");
            files += 1;
        }
    }
    assert!(tests > 30 && files > tests + 20, "{tests} tests and {files} files were found");
}
