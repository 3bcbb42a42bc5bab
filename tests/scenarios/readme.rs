//! The README names a test for each guarantee: it has to be there.

use tidemill_tests::sandbox::repository;

#[test]
fn each_guarantee_of_the_readme_has_its_test() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let mut found = 0;
    for (line, guarantee) in readme.lines().enumerate() {
        for link in guarantee.split("[`").skip(1) {
            let Some((test, file)) = link.split_once("*`](") else { continue };
            let file = &file[..file.find(')').unwrap()];
            let source = std::fs::read_to_string(repository().join(file)).unwrap_or_default();
            assert!(source.contains(&format!("fn {test}")), "README.md:{}: no test {test}* in {file}", line + 1);
            found += 1;
        }
    }
    assert!(found > 20, "the table was not found");
}
