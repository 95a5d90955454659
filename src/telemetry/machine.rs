//! The state of the machine and of this process on it.
//!
//! Contract: looking is cheap and never on the way of audio. Whoever asks twice within a second gets the same answer;
//! nobody is woken up to measure what nobody asks for. Looking blocks for as long as the system takes to tell (a file
//! system on a network that is gone may take long), so it is not for a thread that drives futures.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sysinfo::{MemoryRefreshKind, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);

/// See the module.
pub struct Machine {
    places: Vec<(&'static str, PathBuf)>,
    state: Mutex<State>,
}

struct State {
    /// Absent where the system tells nothing.
    system: Option<System>,
    taken: Option<(Instant, Sample)>,
}

/// What was seen at one moment. `None` and empty lists where this system does not tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// What this process takes, in percent of one core, since it was last looked at.
    pub process_cpu: Option<f32>,
    /// What everybody takes, in percent of all cores.
    pub machine_cpu: Option<f32>,
    /// Processor time of this process, in seconds.
    pub cpu_seconds: Option<u64>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Runnable threads, on average over 1, 5 and 15 minutes.
    pub load: Option<[f64; 3]>,
    /// Memory of this process, in bytes.
    pub resident: Option<u64>,
    /// Memory of the machine, or of the container if that has less.
    pub memory_total: Option<u64>,
    /// How much of it is to be had.
    pub memory_available: Option<u64>,
    /// Open files and sockets.
    pub open_files: Option<u64>,
    /// Free bytes where this process writes, by what it writes there.
    pub disk_free: Vec<(&'static str, u64)>,
}

impl Machine {
    /// Looks after these places beside the machine itself. A place that is not there yet counts as its nearest
    /// parent that is.
    pub fn new(places: Vec<(&'static str, PathBuf)>) -> Self {
        let mut state = State { system: System::new().ok(), taken: None };
        // What processors do shows only between two looks, so the first is taken now.
        if let Some(system) = &mut state.system {
            look(system);
        }
        Self { places, state: Mutex::new(state) }
    }

    /// How things are. Blocks.
    pub fn sample(&self) -> Sample {
        // Those who come together wait for one look.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, sample)) = &state.taken
            && at.elapsed() < FRESH
        {
            return sample.clone();
        }
        let mut sample = state.system.as_mut().map(look).unwrap_or_default();
        sample.cores = std::thread::available_parallelism().map_or(1, usize::from);
        sample.open_files = open_files();
        let free = self.places.iter().filter_map(|(name, path)| Some((*name, free_bytes(path)?)));
        sample.disk_free = free.collect();
        state.taken = Some((Instant::now(), sample.clone()));
        sample
    }
}

fn look(system: &mut System) -> Sample {
    let own = Pid::from_u32(std::process::id());
    system.refresh_cpu_usage();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let wanted = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[own]), false, wanted);
    let process = system.process(own);
    let container = system.cgroup_limits();
    let told = |bytes: u64| Some(bytes).filter(|bytes| *bytes > 0);
    let (total, available) = match container {
        Some(limits) if limits.total_memory < system.total_memory() => {
            (limits.total_memory, limits.free_memory)
        }
        _ => (system.total_memory(), system.available_memory()),
    };
    Sample {
        process_cpu: process.map(|process| process.cpu_usage()),
        machine_cpu: Some(system.global_cpu_usage()),
        cpu_seconds: process.map(|process| process.accumulated_cpu_time() / 1_000),
        load: System::load_average().ok().map(|load| [load.one, load.five, load.fifteen]),
        resident: process.and_then(|process| told(process.memory())),
        memory_total: told(total),
        memory_available: told(total).map(|_| available),
        ..Sample::default()
    }
}

/// Counted by their entries in the folder that the system keeps of them.
fn open_files() -> Option<u64> {
    let folder =
        ["/proc/self/fd", "/dev/fd"].into_iter().find_map(|folder| std::fs::read_dir(folder).ok())?;
    // Looking into the folder takes one itself.
    Some((folder.count() as u64).saturating_sub(1))
}

#[cfg(unix)]
fn free_bytes(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let space = rustix::fs::statvfs(there).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_path: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_seen_once_a_second() {
        let folder = tempfile::tempdir().expect("a folder");
        let later = folder.path().join("not/yet/there");
        let machine = Machine::new(vec![("uploads", folder.path().to_owned()), ("models", later)]);
        let sample = machine.sample();
        let [("uploads", uploads), ("models", models)] = sample.disk_free[..] else { panic!("{sample:?}") };
        assert!(uploads > 0 && models > 0, "a place that is not there yet is on its parent's disk");
        let (total, available) = (sample.memory_total.expect("told"), sample.memory_available.expect("told"));
        let resident = sample.resident.expect("told");
        assert!(resident > 1 << 20 && resident < total && available <= total, "{sample:?}");
        assert!(sample.open_files.expect("told") >= 3, "{sample:?}");
        assert!(sample.cores >= 1 && sample.load.is_some() && sample.machine_cpu.is_some(), "{sample:?}");
        let held: Vec<_> = (0..8).map(|_| tempfile::tempfile().expect("a file")).collect();
        assert_eq!(machine.sample(), sample, "a second look within a second is the first");
        drop(held);
    }
}
