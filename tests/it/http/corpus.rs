//! Every file of the fuzz corpus of JSON mails, through the check that the fuzz target makes.

#[path = "../../../fuzz/http_checks.rs"]
mod checks;

use std::path::Path;

#[test]
fn any_body_is_a_mail_or_a_problem() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/json_mail");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // Shown by the test harness where the check fails.
        println!("{}", path.display());
        let body = std::fs::read(&path).unwrap();
        checks::json_mail(&body);
        (0..body.len().min(2000))
            .step_by(3)
            .for_each(|end| checks::json_mail(&body[..end]));
        // One byte wrong, at each place.
        for place in 0..body.len().min(2000) {
            let mut wrong = body.clone();
            wrong[place] ^= 1 << (place % 8);
            checks::json_mail(&wrong);
        }
        files += 1;
    }

    assert!(files > 5, "the corpus is gone");
}
