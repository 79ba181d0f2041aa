//! Replies of real servers, verbatim except for names and addresses, each with its true cause:
//! `replies.txt`. If the table gets one wrong, its rules are to be fixed.

use super::*;

const REPLIES: &str = include_str!("replies.txt");

fn step(name: &str) -> Phase {
    let steps = [Greeting, Ehlo, Tls, Auth, MailFrom, RcptTo, Data, FinalDot];
    let step = steps.into_iter().find(|step| step.as_str() == name);
    step.unwrap_or_else(|| panic!("{name} is no step"))
}

fn connection(name: &str) -> Circumstances {
    match name {
        "fresh" => FRESH,
        "used" => USED,
        "accepted" => AFTER_OTHERS,
        other => panic!("{other} is no connection"),
    }
}

#[test]
fn whose_fault_a_real_servers_reply_is() {
    let mut wrong = Vec::new();
    for case in REPLIES.lines().filter(|line| !line.starts_with('#')) {
        let [expected, at, state, server, said] = case
            .splitn(5, " | ")
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or_else(|_| panic!("a part is missing: {case}"));
        let (phase, line) = (step(at), said.replace("\\n", "\n"));
        // A refusal of the mail has the mail as its cause, however often it is repeated and on any
        // connection.
        let tried = match expected {
            "mail" => vec![FRESH, USED, AFTER_OTHERS, REPEATED],
            _ => vec![connection(state)],
        };

        for circumstances in tried {
            let judged = fault(phase, &line, circumstances).as_str();
            if judged != expected {
                wrong.push(format!(
                    "{server}, {phase}, {circumstances:?}: {line}\n  {judged}, not {expected}"
                ));
            }
        }
    }

    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
