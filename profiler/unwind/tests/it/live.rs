//! Stacks of running programs, stopped anywhere, unwound by real tables of the program, libc and the vDSO. The programs call
//! themselves in chains that are known, so a frame too many, too few or a wrong one shows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use pyrite_bpf::StackOutcome::{self, ChainEnd, Complete};
use pyrite_unwind::Walked;

use crate::go;
use crate::process::{Code, Running};

/// Without frame pointers: recursion, a callback from libc, a stack frame of a size not known before, and on a signal stack a
/// handler that calls into libc. `loops` is set where main has come through its start.
const C_PROGRAM: &str = r"
#define _GNU_SOURCE
#include <alloca.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#define NOINLINE __attribute__((noinline, noclone))
static volatile unsigned long sink;
static int numbers[64];
NOINLINE void spin(void) { for (int i = 0; i < 2000; i++) sink += i * sink; }
NOINLINE int compare(const void *a, const void *b) { spin(); sink++; return *(const int *)a - *(const int *)b; }
NOINLINE void sort(void) { for (int i = 0; i < 64; i++) numbers[i] = i * 37 % 64; qsort(numbers, 64, sizeof(int), compare); sink++; }
NOINLINE void variable(int n) { char *p = alloca(n); memset(p, n, n); sink += p[n / 2]; sort(); sink += p[0]; }
NOINLINE void clocks(void) { struct timespec t; for (int i = 0; i < 50; i++) { clock_gettime(CLOCK_MONOTONIC, &t); sink += t.tv_nsec; } }
NOINLINE void recurse(int depth) { if (depth) { recurse(depth - 1); sink++; } else { variable(100 + sink % 1000); clocks(); sink++; } }
NOINLINE void handler(int signal) { sort(); sink += signal; }
NOINLINE void interrupted(void) { raise(SIGUSR1); sink++; }
int main(void) {
	stack_t alternative = { .ss_sp = malloc(1 << 16), .ss_size = 1 << 16 };
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	sigaltstack(&alternative, 0);
	sigaction(SIGUSR1, &action, 0);
	for (;;) { recurse(40); interrupted(); sink++; }
}
";

fn compile(name: &str, source: &str, flags: &[&str]) -> Option<PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).expect("the directory can be made");
    fs::write(directory.join("main.c"), source).expect("the source can be written");
    let output = directory.join("program");
    let run = Command::new("cc").args(flags).arg("-o").arg(&output).arg(directory.join("main.c")).output();
    let Ok(run) = run else {
        eprintln!("SKIPPED: no C compiler, so no running C program is looked at");
        return None;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Some(output)
}

/// What is looked for is met within seconds, however slow the machine.
const PATIENCE: Duration = Duration::from_mins(3);

/// Goes on with `round` until it says that all was met: what a thread is doing when it is stopped is up to chance, so no
/// number of rounds is enough. There are at least `rounds`, and no new one once [`PATIENCE`] is over.
fn until_met(rounds: u64, mut round: impl FnMut(u64) -> bool) {
    let begun = Instant::now();
    for number in 0.. {
        let met = round(number);
        if (met && number + 1 >= rounds) || begun.elapsed() > PATIENCE {
            return;
        }
    }
}

fn names_are(names: &[String], wanted: &[&str]) -> bool {
    names.iter().map(String::as_str).eq(wanted.iter().copied())
}

/// What the root end of a stack must look like that came through `main`.
fn check_c_stack(names: &[String], walked: Walked) {
    let context = || format!("{walked:?} {names:#?}");
    assert_eq!(walked.outcome, Complete, "{}", context());
    assert_eq!(walked.frame_pointer_frames, 0, "{}", context());
    assert_eq!(names.last().map(String::as_str), Some("_start"), "{}", context());
    let main = names.iter().position(|name| name == "main").unwrap_or_else(|| panic!("{}", context()));
    let recursions = names.iter().filter(|name| *name == "recurse").count();
    if let Some(variable) = names.iter().position(|name| name == "variable") {
        assert_eq!(recursions, 41, "{}", context());
        assert!(names[variable + 1..main].iter().all(|name| name == "recurse"), "{}", context());
    }
    if let Some(handler) = names.iter().position(|name| name == "handler") {
        assert!(names_are(&names[main - 1..=main], &["interrupted", "main"]), "{}", context());
        assert!(names[handler + 1..main].len() >= 3, "trampoline, raise, interrupted: {}", context());
    }
    if let Some(compare) = names.iter().position(|name| name == "compare") {
        let sort = names.iter().position(|name| name == "sort").unwrap_or_else(|| panic!("{}", context()));
        assert!(compare < sort && sort < main, "{}", context());
    }
}

fn check_c_program(name: &str, flags: &[&str]) {
    let Some(program) = compile(name, C_PROGRAM, flags) else { return };
    let running = Running::start(&mut Command::new(program));
    sleep(Duration::from_millis(200));
    let code = Code::of(&running);
    let asked = ["spin", "compare", "variable", "handler", "recurse"];
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    until_met(400, |round| {
        let tid = running.threads()[0];
        let stack = running.stopped(tid, |start, memory| code.walk(start, memory));
        let (names, walked) = stack.expect("the program runs on");
        check_c_stack(&names, walked);
        for wanted in asked.into_iter().chain(["clocks"]) {
            *seen.entry(wanted).or_default() += u32::from(names.iter().any(|name| name == wanted));
        }
        sleep(Duration::from_micros(300 + round * 7 % 400));
        asked.iter().all(|wanted| seen[wanted] >= 10)
    });
    println!("{name}: {seen:?}");
    for wanted in asked {
        assert!(seen[wanted] >= 10, "{wanted} was met too seldom: {seen:?}");
    }
}

#[test]
fn stacks_of_a_running_c_program_are_whole() {
    check_c_program("c-live", &["-O2", "-fomit-frame-pointer"]);
}

#[test]
fn stacks_of_a_running_static_c_program_are_whole() {
    check_c_program("c-live-static", &["-O2", "-fomit-frame-pointer", "-static"]);
}

/// Much garbage, so that collection, stack growth and the scheduler are met; with C code also calls to C and back.
const GO_PROGRAM: &str = r#"package main

/*
#include <stdint.h>
extern void goCallback(int);
static volatile unsigned long sink;
__attribute__((noinline)) static void c_spin(void) { for (int i = 0; i < 20000; i++) sink += i * sink; }
__attribute__((noinline)) static void c_work(int n) { c_spin(); goCallback(n); sink++; }
*/
import "C"
import "time"

var sink [][]byte
var total uint64

//go:noinline
func spin() { for i := uint64(0); i < 20000; i++ { total += i * total } }

//go:noinline
func alpha(n int) { beta(n); total++ }

//go:noinline
func beta(n int) { sink = append(sink[:0], make([]byte, 1<<14), make([]byte, n)); spin(); _ = time.Now(); total++ }

//go:noinline
func deep(n int) int { var pad [64]byte; if n == 0 { spin(); return int(pad[3]) }; pad[n%64] = 1; return deep(n-1) + int(pad[0]) }

//export goCallback
func goCallback(n C.int) { spin(); alpha(int(n)) }

func main() {
	for i := 0; i < 3; i++ {
		go func() { for { done := make(chan int); go func() { deep(200); done <- 1 }(); <-done } }()
	}
	for { alpha(100); C.c_work(5) }
}
"#;

/// Whether a stack of a Go program ends as it should. Nothing leads from `morestack` to the goroutine that it works for.
fn ends_well(names: &[String], outcome: StackOutcome) -> bool {
    let root = names.last().map(|name| name.trim_end_matches(".abi0")).unwrap_or_default();
    match outcome {
        Complete => {
            let roots = ["runtime.goexit", "runtime.mstart", "runtime.rt0_go", "runtime.mcall"];
            roots.contains(&root)
                || ["_start", "start_thread", "__clone", "clone", "clone3", "__clone3"].contains(&root)
        }
        ChainEnd => root == "runtime.morestack",
        _ => false,
    }
}

/// Whether these names follow each other, leaf first.
fn has(names: &[String], wanted: &[&str]) -> bool {
    names
        .windows(wanted.len())
        .any(|some| some.iter().map(|name| name.trim_end_matches(".abi0")).eq(wanted.iter().copied()))
}

fn check_go_program(name: &str, source: &str, environment: &[(&str, &str)], wanted: &[&[&str]]) {
    let Some(program) = go::build(name, source, environment, &[]) else { return };
    let running = Running::start(&mut Command::new(program));
    sleep(Duration::from_millis(200));
    let code = Code::of(&running);
    let (mut stacks, mut bad, mut met) = (0, Vec::new(), vec![0; wanted.len()]);
    until_met(600, |_| {
        for tid in running.threads() {
            let stack = running.stopped(tid, |start, memory| code.walk(start, memory));
            let Some((names, walked)) = stack else { continue };
            stacks += 1;
            for (count, chain) in met.iter_mut().zip(wanted) {
                *count += usize::from(has(&names, chain));
            }
            if !ends_well(&names, walked.outcome) {
                bad.push((names, walked));
            }
        }
        met.iter().all(|count| *count >= 3)
    });
    println!("{name}: {} of {stacks} stacks do not end well", bad.len());
    for (count, chain) in met.iter().zip(wanted) {
        println!("{name}: {chain:?} {count} times");
        assert!(*count >= 3, "{chain:?} was met {count} times in {stacks} stacks");
    }
    // Between the instructions that switch stacks a thread belongs to none.
    assert!(bad.len() * 200 <= stacks, "{:#?}", &bad[..bad.len().min(5)]);
}

#[test]
fn stacks_of_a_running_go_program_lead_from_c_and_the_collector_back_to_its_goroutines() {
    let chains: [&[&str]; 5] = [
        &["main.spin", "main.beta", "main.alpha", "main.main", "runtime.main", "runtime.goexit"],
        &["c_spin", "c_work", "runtime.asmcgocall", "runtime.cgocall", "main._Cfunc_c_work", "main.main"],
        &["runtime.cgocallback", "crosscall2", "goCallback", "c_work", "runtime.asmcgocall"],
        &["main.spin", "main.deep", "main.deep", "main.deep"],
        &["runtime.systemstack", "runtime.gcBgMarkWorker"],
    ];
    check_go_program("go-live-cgo", GO_PROGRAM, &[("CGO_ENABLED", "1")], &chains);
}
