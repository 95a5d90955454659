//! What a process on this machine uses: time on the processors and memory, from `/proc`.
//!
//! Everything here is `None` where there is no `/proc`, or where the server is on another machine; the reports then
//! say "not available". Deliberately absent: container limits, and graphics processors.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, ToSocketAddrs};

/// A process that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This program.
    pub(crate) fn own() -> Self {
        Self(std::process::id())
    }

    /// The process with this number, or else the one that listens at this address, if that is on this machine.
    pub(crate) fn of_server(pid: Option<u32>, server: &str) -> Option<Self> {
        match pid {
            Some(pid) => Some(Self(pid)).filter(|process| process.memory().is_some()),
            None => listener(server).map(Self),
        }
    }

    /// Seconds of processor time since it began, of all its threads.
    pub(crate) fn cpu(self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok()?;
        // The name, in parentheses, may hold anything; behind it the fields are numbers.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).flat_map(str::parse).collect();
        let [user, system] = ticks[..] else { return None };
        Some((user + system) as f64 / ticks_per_second()?)
    }

    /// Bytes of memory that it holds.
    pub(crate) fn memory(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kib * 1024)
    }
}

#[cfg(unix)]
fn ticks_per_second() -> Option<f64> {
    Some(rustix::param::clock_ticks_per_second() as f64)
}

#[cfg(not(unix))]
fn ticks_per_second() -> Option<f64> {
    None
}

/// Who listens at the port of an address of this machine.
fn listener(server: &str) -> Option<u32> {
    let (scheme, rest) = server.split_once("://")?;
    let place = rest.split('/').next()?;
    let place = match place.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => place.to_owned(),
        _ => format!("{place}:{}", if scheme == "https" { 443 } else { 80 }),
    };
    let address = place.to_socket_addrs().ok()?.find(|address| address.ip().is_loopback())?;
    let inodes = listening(address.port(), address.ip());
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find(|pid| holds(*pid, &inodes))
}

/// The inodes of the sockets that listen at this port for this family of addresses, or for both.
fn listening(port: u16, family: IpAddr) -> HashSet<String> {
    let tables: &[&str] =
        if family.is_ipv4() { &["/proc/net/tcp", "/proc/net/tcp6"] } else { &["/proc/net/tcp6"] };
    let texts = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let mut found = HashSet::new();
    for text in texts {
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let here = fields.get(1).and_then(|local| local.rsplit_once(':')).map(|(_, port)| port);
            let listens = fields.get(3) == Some(&"0A");
            if listens && here.is_some_and(|here| u16::from_str_radix(here, 16) == Ok(port)) {
                found.extend(fields.get(9).map(|inode| format!("socket:[{inode}]")));
            }
        }
    }
    found
}

fn holds(pid: u32, inodes: &HashSet<String>) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| {
        let target = fs::read_link(file.path()).unwrap_or_default();
        target.to_str().is_some_and(|target| inodes.contains(target))
    })
}

/// Asks for as many open files as the system lets a process have. How many that is, or nothing where it is unknown.
pub(crate) fn raise_file_limit() -> Option<u64> {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        // Where it cannot be raised it stays what it was.
        let _ = setrlimit(Resource::Nofile, limit);
        getrlimit(Resource::Nofile).current
    }
    #[cfg(not(unix))]
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn this_process_is_seen() {
        let own = Process::own();
        assert!(own.memory().expect("a size") > 1 << 20);
        let before = own.cpu().expect("a time");
        let mut sum = 0_u64;
        while own.cpu().expect("a time") < before + 0.02 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(raise_file_limit().expect("a limit") > 16);
    }

    #[test]
    fn a_listener_of_this_machine_is_found_by_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let found = |server: String| Process::of_server(None, &server);
        assert_eq!(found(format!("http://127.0.0.1:{port}/v1")), Some(Process::own()));
        assert_eq!(found(format!("http://192.0.2.1:{port}")), None, "not this machine");
        drop(listener);
        assert_eq!(found(format!("http://127.0.0.1:{port}")), None);
        assert_eq!(Process::of_server(Some(u32::MAX), "http://127.0.0.1:1"), None);
        assert_eq!(Process::of_server(Some(std::process::id()), ""), Some(Process::own()));
    }
}
