//! The programs that stacks are judged on, and what is known of each. Their sources and the calls that build them are in
//! `fixtures/workloads/unwind`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::accuracy::Step;

const RECIPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/workloads/unwind/build.sh");

/// What a program's stacks are made of, which decides how they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Everything has call frame information.
    Native,
    /// Stacks of goroutines and threads end in functions of the runtime.
    Go,
    /// Compiled at run time, with frame pointers.
    Jit,
}

/// A program and the bounds that its stacks are held to.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Its name in the recipe.
    pub name: &'static str,
    /// What it was written in, for a person to read.
    pub written_in: &'static str,
    /// What its stacks are made of.
    pub language: Language,
    /// Least share of identical stacks, in percent.
    pub bound_percent: f64,
    /// The names of the frames in its own files, leaf first and each followed by a blank, as a regular expression.
    /// `?` stands for code without a name, such as the procedure linkage table.
    pub planted: Option<&'static str>,
    /// Functions at the outer end of its stacks for which its toolchain makes no call frame information.
    pub without_information: &'static [&'static str],
    /// The function behind those that stacks end in; `?` where it has no name.
    pub outermost: &'static str,
    /// Largest share of stacks that may go further than the judge, in percent. Where any stack may pass through a function
    /// that is `without_information` there is no bound.
    pub max_further_percent: f64,
}

const fn native(name: &'static str, planted: Option<&'static str>) -> Workload {
    Workload {
        name,
        written_in: "C",
        language: Language::Native,
        bound_percent: 99.5,
        planted,
        without_information: &[],
        outermost: "_start",
        max_further_percent: 0.0,
    }
}

/// The 28 functions of `chain.c`; at any moment those from some number down to `link0` are on the stack.
const CHAIN: &str = r"^(\? )?(link27 )?(link26 )?(link25 )?(link24 )?(link23 )?(link22 )?(link21 )?(link20 )?(link19 )?(link18 )?(link17 )?(link16 )?(link15 )?(link14 )?(link13 )?(link12 )?(link11 )?(link10 )?(link9 )?(link8 )?(link7 )?(link6 )?(link5 )?(link4 )?(link3 )?(link2 )?(link1 )?(link0 )?main (_start )?$";

/// In the order in which they are run.
pub const WORKLOADS: &[Workload] = &[
    native("chain", Some(CHAIN)),
    native("recursion", Some(r"^(\? )?(burn (recurse ){600}|(recurse ){0,600})main (_start )?$")),
    native("plt", Some(r"^((tiny\d+ |\? )?call_tiny )?(outer )?(\? )?main (_start )?$")),
    native("plt_ibt", Some(r"^((tiny\d+ |\? )?call_tiny )?(outer )?(\? )?main (_start )?$")),
    native(
        "signals",
        Some(
            r"^((((burn_innermost )?on_usr2 )?(burn_inner |\? )?on_usr1 )?(burn_outer |\? )?on_alarm )?(work |\? )?(outer )?thread $",
        ),
    ),
    Workload { written_in: "C++", ..native("exceptions", None) },
    Workload { written_in: "Rust", ..native("rust_release", None) },
    // rustc makes the C `main` itself, and with `panic=abort` without information.
    Workload {
        written_in: "Rust",
        without_information: &["main"],
        max_further_percent: 100.0,
        ..native("rust_abort", None)
    },
    // They go further where a goroutine has work done on its thread's own stack, or asks the vDSO for the time.
    Workload { written_in: "Go", language: Language::Go, max_further_percent: 10.0, ..native("go", None) },
    // Debian's musl has none in all of its C code: what calls `main` and the threads' functions is the end.
    Workload {
        written_in: "C with musl",
        without_information: &["libc_start_main_stage2", "start"],
        outermost: "?",
        max_further_percent: 100.0,
        ..native(
            "musl",
            Some(r"^(mix )?(sort_numbers )?(nest ){0,11}work (main libc_start_main_stage2|start) (\? )?$"),
        )
    },
    Workload { written_in: "Python", ..native("python", None) },
    Workload {
        written_in: "JavaScript",
        language: Language::Jit,
        bound_percent: 98.0,
        max_further_percent: 10.0,
        ..native("node", None)
    },
    Workload {
        written_in: "Java",
        language: Language::Jit,
        bound_percent: 98.0,
        max_further_percent: 2.0,
        ..native("java", None)
    },
    native("dlopen", Some(r"^((plugin_burn )?plugin_run |\? )?((\? )?use )?(\? )?(main )?(_start )?$")),
    native("fork", None),
    native("exec", None),
    Workload { bound_percent: 95.0, ..native("short_same", None) },
    Workload { bound_percent: 95.0, ..native("short_new", None) },
];

impl Workload {
    /// Builds it into a directory of its own below `directory`, and returns that.
    ///
    /// # Errors
    /// Where its toolchain is missing.
    pub fn build(&self, directory: &Path) -> Result<PathBuf> {
        let directory = directory.join(self.name);
        let mut recipe = Command::new("bash");
        recipe.arg(RECIPES).arg(self.name).arg(&directory);
        let built = recipe.status().context("bash does not start")?;
        ensure!(built.success(), "the recipe of {} failed", self.name);
        Ok(directory)
    }

    /// What the name of a frame's function says, where the judge stepped from it like this.
    pub fn root(&self, name: &str, step: Step) -> Option<Root> {
        if self.without_information.contains(&name) && step != Step::Information {
            return Some(Root::Open);
        }
        match self.language {
            Language::Go => Root::of_go(name),
            Language::Native | Language::Jit => None,
        }
    }

    /// Whether stacks that the judge left at a [`Root::Open`] may end in a function of this name, or in one without.
    pub fn is_outermost(&self, name: Option<&str>) -> bool {
        match self.language {
            Language::Go => name.and_then(Root::of_go) == Some(Root::End),
            Language::Native | Language::Jit => name.unwrap_or("?") == self.outermost,
        }
    }

    /// The call that runs what [`Self::build`] put into `directory`.
    pub fn command(&self, directory: &Path, seconds: u32) -> Command {
        let mut command = Command::new(directory.join("run"));
        command.arg(seconds.to_string());
        command
    }
}

/// Where the judge's way ends though call frame information does not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// The outermost frame.
    End,
    /// It was called, but from where is not known to the judge: from another stack, or it has no information.
    Open,
}

impl Root {
    /// What the name of a function of Go's runtime says of a frame that has called another.
    fn of_go(name: &str) -> Option<Self> {
        match name.strip_suffix(".abi0").unwrap_or(name) {
            "runtime.goexit" | "runtime.mstart" | "runtime.rt0_go" | "_rt0_amd64" | "_rt0_amd64_linux" => {
                Some(Self::End)
            }
            // They leave a goroutine for good: Go's own tracebacks end there, too.
            "runtime.mcall" | "runtime.morestack" => Some(Self::End),
            // They go over to the thread's own stack and come back, the last three for calls into the vDSO.
            "runtime.systemstack"
            | "runtime.asmcgocall"
            | "runtime.nanotime1"
            | "runtime.walltime"
            | "time.now" => Some(Self::Open),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;
    use std::collections::HashSet;

    #[test]
    fn the_recipes_and_the_list_name_the_same_programs() {
        let said = Command::new("bash").arg(RECIPES).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let recipes: HashSet<&str> = said.lines().collect();
        let listed: HashSet<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
        assert_eq!(recipes, listed);
    }

    #[test]
    fn roots_are_known_by_name() {
        let named = |name: &str| *WORKLOADS.iter().find(|workload| workload.name == name).unwrap();
        let go = named("go");
        assert_eq!(go.root("runtime.goexit.abi0", Step::Information), Some(Root::End));
        assert_eq!(go.root("runtime.mcall", Step::Information), Some(Root::End));
        assert_eq!(go.root("runtime.systemstack.abi0", Step::Information), Some(Root::Open));
        assert_eq!(go.root("main.goexit", Step::Information), None);
        assert_eq!(named("rust_abort").root("main", Step::Failed), Some(Root::Open));
        assert_eq!(named("rust_abort").root("main", Step::Information), None);
        assert_eq!(named("chain").root("main", Step::Failed), None);
    }

    #[test]
    fn stacks_that_go_on_end_where_they_must() {
        let named = |name: &str| *WORKLOADS.iter().find(|workload| workload.name == name).unwrap();
        let check = |workload: &str, function: Option<&str>, expect: bool| {
            assert_eq!(named(workload).is_outermost(function), expect, "{workload} {function:?}");
        };
        check("go", Some("runtime.goexit.abi0"), true);
        check("go", Some("runtime.systemstack.abi0"), false);
        check("go", None, false);
        check("rust_abort", Some("_start"), true);
        check("rust_abort", Some("main"), false);
        check("musl", None, true);
        check("musl", Some("work"), false);
    }

    #[test]
    fn planted_chains_are_regular_expressions() {
        for workload in WORKLOADS {
            let Some(planted) = workload.planted else { continue };
            assert!(Regex::new(planted).is_ok(), "{}", workload.name);
        }
    }
}
