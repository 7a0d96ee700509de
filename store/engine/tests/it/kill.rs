//! `kill -9` in the middle of ingest: what was acknowledged is there.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::{EVERYTHING, batch, by_path, open, query};

const CHILD_DIR: &str = "PYRITE_STORE_TEST_CHILD_DIR";

/// Not a test by itself: the child that the test below starts and kills.
#[test]
fn child_that_appends_until_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let (store, _) = open(dir.as_ref());
    for i in 0_i64.. {
        store.append_blocking(batch("child", &[(i, &format!("main;f{i}"), 1)])).unwrap();
        if i % 50 == 49 {
            store.flush().unwrap();
        }
        // One line per acknowledgement, out of the process before the next append.
        writeln!(std::io::stdout().lock(), "acknowledged {i}").unwrap();
        std::io::stdout().flush().unwrap();
    }
}

#[test]
fn every_acknowledged_batch_survives_kill_9() {
    for lines_before_the_kill in [1, 49, 51, 120] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child_that_appends_until_killed", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = lines.map_while(Result::ok).filter(|line| line.starts_with("acknowledged "));
        for _ in 0..lines_before_the_kill {
            acknowledged.next().expect("the child appends");
        }
        child.kill().unwrap();
        let count = lines_before_the_kill + acknowledged.count();
        child.wait().unwrap();
        let (store, report) = open(dir.path());
        let found = by_path(&store.merge_stacks(&query("{}", EVERYTHING)).unwrap());
        for i in 0..count {
            let path = format!("main;f{i}");
            assert!(found.iter().any(|(p, value)| *p == path && *value == 1), "{path} is lost; {report}");
        }
        assert!(found.len() <= count + 1, "{} stacks from {count} acknowledged batches", found.len());
    }
}
