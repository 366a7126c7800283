//! The command line: what a user may type, and the names of what it becomes.

pub mod client;
pub mod gateway;
pub mod ping;
pub mod proxy;
pub mod trace;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dataplane::datachannel::aead::AeadChoice;
use dataplane::sys::affinity;

use crate::bench::Engine;
use crate::gateway::requests::StatusOptions;
use crate::healthcheck;
use crate::observe::log::{Format, Level};

/// An OpenVPN-compatible VPN daemon for Linux.
#[derive(Debug, Parser)]
#[command(name = "minivpn", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Log lines on standard error: text or one JSON object a line
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: Format,
    /// How much to log
    #[arg(long, global = true, value_enum, default_value = "info")]
    pub log_level: Level,
    /// Print nothing but errors; of `ping`: only who it is connected to, whom it pings, and the statistics at the end
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 other, 2 usage or configuration, 3 authentication refused, 4 unreachable, \
5 TLS or certificate, 6 privilege or TUN device, 7 addresses or routes
Environment: each option --some-flag can be given as MINIVPN_SOME_FLAG, and a value in a file as MINIVPN_SOME_FLAG_FILE=PATH; \
the command line wins";

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect to an OpenVPN server and carry traffic until interrupted
    Connect(Connect),
    /// SOCKS5 and HTTP proxy through a tunnel of its own: no root, nothing of the host changed
    Proxy(proxy::Proxy),
    /// Ping hosts through a tunnel of one's own: no root, no TUN device, nothing of the host changed
    Ping(ping::Ping),
    /// What a gateway on this host is doing: its clients, its workers, what it drops
    Status(StatusOptions),
    /// Serve OpenVPN clients
    Gateway {
        /// What to do with it
        #[command(subcommand)]
        command: gateway::Gateway,
    },
    /// Look at configuration files
    Config {
        /// What to do with it
        #[command(subcommand)]
        command: Config,
    },
    /// Say whether the gateway that runs here serves: exit 0 or 1
    Healthcheck(healthcheck::Options),
    /// The clients of a gateway: their certificates and profiles
    Client {
        /// What to do with them
        #[command(subcommand)]
        command: client::Client,
    },
    /// The certificates of a gateway itself
    Pki {
        /// What to do with them
        #[command(subcommand)]
        command: client::Pki,
    },
    /// Watch the handshake with a server, packet by packet, and say what stopped it (needs no privilege)
    Trace(trace::Trace),
    /// Measure tunnels between two network namespaces of this machine: minivpn, and what else is installed (needs root)
    Bench(Bench),
}

/// `minivpn bench …`
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    /// Only a part of it
    #[command(subcommand)]
    pub command: Option<BenchCommand>,
    /// Where the report goes [default: minivpn-bench-DATE]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Repetitions of everything, in turns [default: 5, with --quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub rounds: Option<u32>,
    /// Seconds of each measurement, warm-up not included [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub seconds: Option<u32>,
    /// Measure only these: veth, minivpn, minivpn/uring/ipsec-mb, openvpn, wireguard-go, boringtun, wireguard, ovpn
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub only: Vec<String>,
    /// I/O engines of minivpn [default: uring,syscall]
    #[arg(long, value_name = "ENGINE,…", value_enum, value_delimiter = ',')]
    pub engines: Vec<Engine>,
    /// What seals and opens in minivpn: aws-lc, ring, ipsec-mb, auto [default: this build's library, and ipsec-mb]
    #[arg(long, value_name = "AEAD,…", value_delimiter = ',')]
    pub aead: Vec<AeadChoice>,
    /// Links: offloaded (trains of datagrams cross whole), segmented (each alone) [default: both, with --quick offloaded]
    #[arg(long, value_name = "LINK,…", value_delimiter = ',')]
    pub links: Vec<String>,
    /// Tests: tcp-up, tcp-down, parallel-up, parallel-down, udp-64, udp-512, udp-1300, latency-idle, latency-loaded, or what
    /// stands before the dash [default: all, with --quick tcp, udp-64, latency-idle]
    #[arg(long, value_name = "TEST,…", value_delimiter = ',')]
    pub tests: Vec<String>,
    /// Datagrams a second that the UDP tests offer; 0 is as many as the sender can
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub udp_rate: u64,
    /// Compare with the results.json of an earlier run
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// A first impression in a minute or two
    #[arg(long)]
    pub quick: bool,
}

/// `minivpn bench …`, a part of it.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// What sealing and opening a packet costs, without any tunnel (needs no root)
    Crypto(BenchCrypto),
}

/// `minivpn bench crypto …`
#[derive(Clone, Debug, Args)]
pub struct BenchCrypto {
    /// Where the report goes [default: minivpn-bench-DATE]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Only these: aws-lc, ring, ipsec-mb [default: this build's library, and ipsec-mb]
    #[arg(long, value_name = "AEAD,…", value_delimiter = ',')]
    pub aead: Vec<AeadChoice>,
    /// Compare with the results.json of an earlier run
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// A first impression
    #[arg(long)]
    pub quick: bool,
}

/// `minivpn config …`
#[derive(Debug, Subcommand)]
pub enum Config {
    /// List every problem of a client's profile or a server's configuration with its line, what is wrong and what to write instead
    Lint {
        /// The profile (.ovpn), or the server's configuration (server.conf): what stands in it decides
        file: PathBuf,
    },
}

/// `minivpn connect …`
#[derive(Clone, Debug, Args)]
pub struct Connect {
    /// The profile (.ovpn)
    pub file: PathBuf,
    /// The data path
    #[command(flatten)]
    pub data: DataPath,
    /// Act as an older peer: clear these IV_PROTO bits
    #[arg(long, hide = true, default_value_t = 0, value_parser = number)]
    pub iv_proto_mask: u32,
}

/// What is the same for a client and a gateway: how packets are moved, and where changes of the host are noted.
#[derive(Clone, Debug, Args)]
pub struct DataPath {
    /// How the data plane reads and writes
    #[arg(long, value_enum, default_value = "auto")]
    pub io: Io,
    /// What encrypts: `aws-lc` or `ring` (whichever this build has), `ipsec-mb` (AES-GCM of Intel's libIPSec_MB.so.1), or
    /// `auto` (ipsec-mb where the host has it)
    #[arg(long, value_name = "auto|aws-lc|ring|ipsec-mb", default_value = "auto")]
    pub aead: AeadChoice,
    /// The processor that the worker is pinned to: a number, `none`, or `auto` (one that this process may run on)
    #[arg(long, value_name = "CPU", default_value = "auto", value_parser = pinning)]
    pub cpu: Pinning,
    /// The processors that workers may be pinned to, as in `0-3,8`: each takes the next one
    #[arg(long, value_name = "LIST", conflicts_with = "cpu", value_parser = processors)]
    pub cpu_list: Option<CpuList>,
    /// Two threads, one per direction, on two processors: more throughput where both directions are busy at once
    #[arg(long)]
    pub split_directions: bool,
    /// Run the worker under SCHED_FIFO with this priority, 1 to 99 (needs CAP_SYS_NICE)
    #[arg(long, value_name = "PRIO", value_parser = clap::value_parser!(u8).range(1..=99))]
    pub sched_fifo: Option<u8>,
    /// So many microseconds after the last packet the worker looks for the next one before it sleeps, and sockets poll the device: less latency for more CPU time
    #[arg(long, value_name = "USEC", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub busy_poll: u32,
    /// Segmentation offloads of the TUN device
    #[arg(long, value_enum, default_value = "on")]
    pub tun_offload: Switch,
    /// Send trains of datagrams in one call (UDP_SEGMENT)
    #[arg(long, value_enum, default_value = "on")]
    pub udp_gso: Switch,
    /// Receive trains of datagrams in one call (UDP_GRO)
    #[arg(long, value_enum, default_value = "on")]
    pub udp_gro: Switch,
    /// Send long trains without a copy (SENDMSG_ZC, with io_uring): `auto` by devices that segment UDP in hardware, `on` by all
    #[arg(long, value_enum, default_value = "auto")]
    pub zero_copy: ZeroCopy,
    /// Where the journal of host changes is kept
    #[arg(long, value_name = "DIR", default_value = "/run/minivpn")]
    pub run_dir: PathBuf,
}

/// `--cpu`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinning {
    /// One of those that this process may run on; processes started one after the other get different ones.
    Auto,
    /// Wherever the scheduler puts it
    None,
    /// This one
    To(usize),
}

/// `--cpu-list`: at least one processor, in the order in which workers take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub Vec<usize>);

/// `--zero-copy`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ZeroCopy {
    /// By devices that segment UDP in hardware, as long as the kernel does not copy all the same
    Auto,
    /// By every device
    On,
    /// Never
    Off,
}

/// `--io`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// io_uring where the host allows it, system calls otherwise
    Auto,
    /// io_uring, or fail
    #[value(alias = "io_uring")]
    Uring,
    /// Plain system calls
    Syscall,
}

/// An offload's switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Use it where the kernel has it
    On,
    /// Do not use it
    Off,
}

impl Switch {
    /// True for `on`.
    pub fn is_on(self) -> bool {
        self == Switch::On
    }
}

fn pinning(text: &str) -> Result<Pinning, String> {
    match text {
        "auto" => Ok(Pinning::Auto),
        "none" => Ok(Pinning::None),
        number => number.parse().map(Pinning::To).map_err(|_| "a processor's number, `auto` or `none`".to_owned()),
    }
}

fn processors(text: &str) -> Result<CpuList, String> {
    affinity::parse_list(text).map(CpuList).ok_or_else(|| "a list of processors like `0-3,8`".to_owned())
}

fn number(text: &str) -> Result<u32, std::num::ParseIntError> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_client_to_end_is_named_by_its_name_or_its_id() {
        let kill = |words: &[&str]| Cli::try_parse_from([&["minivpn", "gateway", "kill"], words].concat());
        assert!(kill(&["alice"]).is_ok() && kill(&["--id", "7"]).is_ok());
        assert!(kill(&[]).is_err() && kill(&["alice", "--id", "7"]).is_err());
        assert!(Cli::try_parse_from(["minivpn", "status", "--json", "--name", "office"]).is_ok());
    }

    #[test]
    fn a_processor_is_a_number_or_a_word() {
        assert_eq!(pinning("3"), Ok(Pinning::To(3)));
        assert_eq!(pinning("none"), Ok(Pinning::None));
        assert_eq!(pinning("auto"), Ok(Pinning::Auto));
        assert!(pinning("all").is_err());
    }

    fn connect(words: &[&str]) -> Result<Connect, clap::Error> {
        let words = [&["minivpn", "connect", "x.ovpn"], words].concat();
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Connect(connect) => connect,
            other => unreachable!("{other:?}"),
        })
    }

    #[test]
    fn directions_are_split_only_when_wished() {
        assert!(!connect(&[]).unwrap().data.split_directions);
        assert!(connect(&["--split-directions", "--cpu-list", "0-1"]).unwrap().data.split_directions);
    }

    #[test]
    fn processors_are_one_or_a_list_and_not_both() {
        let both = connect(&["--cpu-list", "0-1,3"]).unwrap();
        assert_eq!((both.data.cpu_list, both.data.cpu), (Some(CpuList(vec![0, 1, 3])), Pinning::Auto));
        assert_eq!(connect(&["--cpu", "2"]).unwrap().data.cpu, Pinning::To(2));
        assert!(connect(&["--cpu-list", "0", "--cpu", "1"]).is_err());
        assert!(connect(&["--cpu-list", "3-1"]).is_err());
        assert!(connect(&["--cpu-list", ""]).is_err());
    }

    #[test]
    fn priority_and_polling_are_off_and_bounded() {
        let plain = connect(&[]).unwrap();
        assert_eq!((plain.data.sched_fifo, plain.data.busy_poll), (None, 0));
        let set = connect(&["--sched-fifo", "99", "--busy-poll", "50"]).unwrap();
        assert_eq!((set.data.sched_fifo, set.data.busy_poll), (Some(99), 50));
        for wrong in [["--sched-fifo", "0"], ["--sched-fifo", "100"], ["--busy-poll", "1000001"], ["--busy-poll", "-1"]]
        {
            assert!(connect(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_aead_is_one_of_four_words() {
        let aead = |word: &str| match Cli::try_parse_from(["minivpn", "connect", "x.ovpn", "--aead", word]) {
            Ok(Cli { command: Command::Connect(options), .. }) => Some(options.data.aead),
            _ => None,
        };
        for choice in AeadChoice::ALL {
            assert_eq!(aead(choice.name()), Some(choice));
        }
        assert_eq!(aead("none"), None, "there is always cryptography");
        let Ok(Cli { command: Command::Connect(options), .. }) = Cli::try_parse_from(["minivpn", "connect", "x.ovpn"])
        else {
            panic!("the shortest command line");
        };
        assert_eq!(options.data.aead, AeadChoice::Auto);
    }

    #[test]
    fn masks_are_read_in_decimal_and_hexadecimal() {
        assert_eq!(number("10"), Ok(10));
        assert_eq!(number("0x0a"), Ok(10));
        assert!(number("ten").is_err());
    }
}
