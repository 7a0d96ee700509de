//! Files that are changed while they are mapped, or while they are read.

use super::*;
use crate::unwind::files::LOOK_AGAIN_NS;

/// Another executable than the file was before.
fn changed(request: &OpenRequest) -> Result<Found, Miss> {
    let found = found(request)?;
    let identity = TableIdentity { bytes: found.identity.bytes + 2000, ..(*found.identity).clone() };
    Ok(Found { identity: Arc::new(identity), ..found })
}

#[test]
fn a_file_changed_in_place_gets_another_table() {
    let mut world = World::new(1);
    world.run(1, [5]);
    world.finish();
    let before = world.executable_of(1, 5);
    world.later();
    world.run(2, [5, 6]);
    while world.open_next(changed) || world.work_next() {}
    assert_ne!(world.executable_of(1, 5), before);
    assert_eq!(world.executable_of(1, 5), world.executable_of(2, 5));
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_READY]);
}

#[test]
fn a_set_that_shows_a_file_as_it_was_is_withdrawn_where_it_cannot_be_written_again() {
    let mut world = World::new(1);
    world.run(1, [5]);
    world.finish();
    let before = world.executable_of(1, 5);
    let others = 10..1200;
    for tgid in others.clone() {
        world.run(tgid, [6]);
    }
    assert_eq!(world.publisher.stats().free_chunks, 0);
    world.now = BootNs(world.now.0 + LOOK_AGAIN_NS);
    world.run(2, [5]);
    assert!(world.executable_of(1, 5) == before, "as it was when it was last looked at");
    while world.open_next(changed) {}
    assert_eq!(world.executable_of(1, 5), None, "soon its index may be another executable's");
    for tgid in others {
        world.end(tgid);
    }
    world.finish();
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_READY]);
    assert_ne!(world.executable_of(1, 5), before);
}

/// A table that could not be made, and whether it is made when its file is opened again.
fn check_another_try(absence: Absence, expect: u32) {
    let mut world = World::new(1);
    world.finish();
    world.run(1, [5]);
    while world.open_next(found) {}
    let is_build = |work: &WorkRequest| matches!(work, WorkRequest::Build { .. });
    let at = world.publisher.work.iter().position(is_build).expect("its turn has come");
    let Some(WorkRequest::Build { index, .. }) = world.publisher.work.remove(at) else { return };
    let rules = rule_news(&mut world.book);
    world.publisher.report(Report::Built { index, outcome: Err(absence), rules }, world.now);
    world.later();
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_ABSENT]);
    world.run(2, [5]);
    world.finish();
    assert_eq!(world.states(1, &[5]), [expect], "{absence:?}");
}

#[test]
fn what_could_not_be_read_through_is_read_again_when_it_is_met_again() {
    check_another_try(Absence::Changed, PYRITE_TABLE_READY);
    check_another_try(Absence::Io, PYRITE_TABLE_READY);
    check_another_try(Absence::NoUnwindInfo, PYRITE_TABLE_ABSENT);
}
