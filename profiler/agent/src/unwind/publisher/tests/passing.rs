//! Executables of processes that end before anything of them is published.

use pyrite_bpf::abi::PYRITE_MAX_EXECUTABLES;

use super::*;

impl World {
    /// A process maps a file and ends before anything of it can be published.
    fn pass(&mut self, inode: u64) {
        let key = pyrite_model::FileKey { dev_major: 8, dev_minor: 1, inode };
        let file = pyrite_sampling::MappedFile { key, path: format!("/{inode}").into() };
        let (start, end) = (Avma(inode << 24), Avma((inode + 1) << 24));
        self.publisher.command(Command::Open { tgid: 1, file: Arc::new(file), start, end }, self.now);
        self.publisher.settle(self.now);
    }

    fn index_of(&self, inode: u64) -> ExecutableIndex {
        let key = pyrite_model::FileKey { dev_major: 8, dev_minor: 1, inode };
        self.publisher.files.index_of(CodeKey::File(key)).unwrap()
    }
}

#[test]
fn tables_are_made_for_processes_that_were_never_published_what_a_stack_waits_for_first() {
    let mut world = World::new(2);
    world.finish();
    for inode in 1..7 {
        world.pass(inode);
    }
    while world.open_next(found) {}
    for inode in [1, 6, 4, 6] {
        let index = world.index_of(inode);
        world.publisher.tables.want(index);
    }
    let mut order = Vec::new();
    loop {
        let builds = world.publisher.work.iter().filter_map(|work| match work {
            WorkRequest::Build { identity, .. } => Some(identity.bytes),
            _ => None,
        });
        let asked: Vec<_> = builds.filter(|bytes| !order.contains(bytes)).collect();
        order.extend(asked);
        if !world.work_next() {
            break;
        }
    }
    // The first two were on their way before anything was wanted.
    assert_eq!(order, [1, 2, 4, 6, 3, 5]);
    let stats = world.publisher.stats();
    assert_eq!(
        (stats.tables.ready, stats.tables.pending, stats.processes),
        (7, 0, 0),
        "those and the vDSO's"
    );
}

#[test]
fn a_file_that_could_not_be_opened_is_tried_again_with_the_next_process() {
    let mut world = World::new(1);
    world.finish();
    world.pass(5);
    assert!(world.open_next(|_| Err(Miss::NotFound)), "it ended too early");
    assert!(world.publisher.opens.is_empty());
    world.pass(5);
    world.finish();
    assert_eq!(world.publisher.stats().tables.ready, 2);
}

/// A file of any inode with a small table, with so many rules of its own.
fn small(request: &OpenRequest, own_rules: i64) -> Result<Found, Miss> {
    let found = found(request)?;
    let modified = Some((found.identity.bytes as i64, own_rules));
    let identity = TableIdentity { bytes: 1, modified, ..(*found.identity).clone() };
    Ok(Found { identity: Arc::new(identity), ..found })
}

#[test]
fn rules_that_come_and_go_always_find_an_id() {
    const OWN_RULES: i64 = 100;
    let mut world = World::new(12);
    world.finish();
    world.run(1, [5]);
    world.finish();
    let inodes = 8000..8000 + 2 * RuleBook::CAPACITY as u64 / OWN_RULES as u64;
    for inode in inodes.clone() {
        world.pass(inode);
        while world.open_next(|request| small(request, OWN_RULES)) || world.work_next() {}
        if inode % 10 == 0 {
            world.later();
        }
    }
    let stats = world.publisher.stats();
    assert_eq!((stats.rules_refused, stats.tables_made), (0, inodes.end - inodes.start + 2), "{stats:?}");
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_READY], "what is mapped stays");
    // The last that came has all of its rules, ids of others that went among them.
    let last = world.index_of(inodes.end - 1);
    let identity = Arc::clone(&world.publisher.tables.get(last).unwrap().identity);
    for row in table_of(&identity).rows {
        let position = lookup(&world.publisher, last.0, row.pc.into()).unwrap();
        let expect = table_of(&identity).rules[row.rule as usize];
        assert_eq!(world.publisher.rules.get(position.rule), Some(expect), "{row:?}");
    }
}

#[test]
fn executables_that_come_and_go_always_find_an_index() {
    let mut world = World::new(12);
    world.finish();
    world.run(1, [5]);
    world.finish();
    let small = |request: &OpenRequest| small(request, 0);
    let inodes = 8000..8000 + u64::from(PYRITE_MAX_EXECUTABLES) + 2000;
    for inode in inodes.clone() {
        world.pass(inode);
        while world.open_next(small) || world.work_next() {}
        if inode % 100 == 0 {
            world.later();
        }
    }
    let stats = world.publisher.stats();
    assert_eq!(stats.publish_failures, [0; PublishFailure::COUNT]);
    assert_eq!(stats.tables_made, inodes.end - inodes.start + 2);
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_READY], "what is mapped stays");
    // Of those that nobody maps, the last that came are still there.
    world.pass(inodes.end - 1);
    while world.open_next(small) || world.work_next() {}
    assert_eq!(world.publisher.stats().tables_made, stats.tables_made);
}

#[test]
fn files_that_come_faster_than_they_are_opened_are_bounded_and_those_that_stay_are_opened_later() {
    let mut world = World::new(1);
    world.finish();
    for inode in 10_000..40_000 {
        world.pass(inode);
    }
    assert!(world.publisher.opens.len() <= 4096, "{}", world.publisher.opens.len());
    let stats = world.publisher.stats();
    assert!(stats.files <= 16_384 && stats.files_waiting <= 4096, "{stats:?}");
    assert!(stats.publish_failures[PublishFailure::FilePostponed as usize] > 20_000);
    world.run(1, [5]);
    while world.open_next(|_| Err(Miss::NotFound)) {}
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_PENDING]);
    world.later();
    world.later();
    assert_eq!(world.states(1, &[5]), [PYRITE_TABLE_READY]);
}
