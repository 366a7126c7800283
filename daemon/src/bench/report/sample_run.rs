//! Runs that tests of the report are made of: a small one, a full one, and one that means harm.

use crate::bench::results::{
    CryptoRow, Direction, Latency, Link, Machine, Results, SCHEMA, Sample, Series, Skipped, Test,
};

/// A run that measured nothing.
pub(crate) fn run() -> Results {
    Results {
        schema: SCHEMA,
        started: "2026-11-22T15:00:00Z".to_owned(),
        command_line: ["minivpn", "bench", "--out", "my report"].map(str::to_owned).to_vec(),
        machine: Machine {
            cpu: "Example CPU @ 2.0 GHz".to_owned(),
            cores: 2,
            memory_bytes: 8 << 30,
            kernel: "6.1.0-example".to_owned(),
            os: "Debian GNU/Linux 12".to_owned(),
            virtualization: "kvm".to_owned(),
        },
        versions: [("minivpn", "0.1.0"), ("openvpn", "2.6.3")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        series: Vec::new(),
        skipped: Vec::new(),
        crypto: Vec::new(),
    }
}

/// One TCP flow up, offloaded, a sample per value in bits a second.
pub(crate) fn tcp_series(contender: &str, values: &[f64]) -> Series {
    let test = Test::TcpSingle { direction: Direction::Up };
    series(contender, Link::Offloaded, test, values, |value| Sample { bits_per_second: value, ..Sample::default() })
}

/// Round trips, a sample per median in µs.
pub(crate) fn latency_series(contender: &str, test: Test, medians: &[f64]) -> Series {
    series(contender, Link::Offloaded, test, medians, |p50| Sample {
        latency_us: Some(latency(p50)),
        ..Sample::default()
    })
}

/// Everything, with figures of the size that a small machine gives.
pub(crate) fn full_run() -> Results {
    let contenders = [
        ("veth", 24.0),
        ("minivpn/uring/ipsec-mb", 12.1),
        ("minivpn/uring/aws-lc-rs", 9.9),
        ("minivpn/syscall/ipsec-mb", 11.8),
        ("minivpn/syscall/aws-lc-rs", 9.7),
        ("openvpn", 0.97),
        ("wireguard-go", 1.55),
        ("boringtun", 0.44),
        ("wireguard (kernel)", 4.2),
        ("ovpn (kernel)", 3.9),
    ];
    let mut results = run();
    for link in [Link::Offloaded, Link::Segmented] {
        let slower = if link == Link::Segmented { 0.4 } else { 1.0 };
        for (contender, speed) in contenders {
            results.series.extend(all_tests(contender, link, speed * slower));
        }
    }
    results
        .skipped
        .push(Skipped { contender: "tailscale".to_owned(), reason: "tailscaled is not installed".to_owned() });
    for (backend, factor) in [("aws-lc-rs", 1.0), ("ring", 1.25), ("ipsec-mb", 0.7)] {
        for (cipher, slower) in [("AES-256-GCM", 1.0), ("CHACHA20-POLY1305", 2.6)] {
            for size in [64, 512, 1300, 1420, 9000] {
                let seal_ns = factor * (60.0 + slower * size as f64 * 0.14);
                let (backend, cipher) = (backend.to_owned(), cipher.to_owned());
                results.crypto.push(CryptoRow { backend, cipher, size, seal_ns, open_ns: seal_ns * 1.07 });
            }
        }
    }
    results
}

/// A run in which every text is an attack and every figure is extreme.
pub(crate) fn hostile_run() -> Results {
    let evil = "</td></svg><script>alert(\"1\")</script><img src=x onerror='a'>&amp;\u{1b}[2J\0\u{202e}]]>".to_owned();
    let mut results = full_run();
    let extremes = [f64::MAX, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, f64::MIN_POSITIVE, 1e300];
    for (index, series) in results.series.iter_mut().enumerate() {
        series.contender = format!("{}{evil}{index}", if index % 2 == 0 { "minivpn/" } else { "=cmd|" });
        series.offloads.clone_from(&evil);
        for (sample, value) in series.samples.iter_mut().zip(extremes.iter().cycle().skip(index)) {
            *sample = Sample {
                round: u32::MAX,
                bits_per_second: *value,
                packets_per_second: *value,
                loss: *value,
                retransmits: u64::MAX,
                latency_us: sample.latency_us.as_ref().map(|_| Latency {
                    p50: *value,
                    max: *value,
                    histogram: vec![(0, 0), (1, u64::MAX), (u64::MAX, u64::MAX), (5, 3)],
                    ..Latency::default()
                }),
                ns_per_packet: Some(*value),
            };
        }
    }
    for (row, value) in results.crypto.iter_mut().zip(extremes.iter().cycle()) {
        (row.backend, row.cipher) = (evil.clone(), evil.clone());
        (row.size, row.seal_ns, row.open_ns) = (usize::MAX, *value, *value);
    }
    results.started.clone_from(&evil);
    results.command_line.push(evil.clone());
    results.versions.insert(evil.clone(), evil.clone());
    results.skipped.push(Skipped { contender: evil.clone(), reason: evil.clone() });
    let machine = &mut results.machine;
    (machine.cores, machine.memory_bytes) = (usize::MAX, u64::MAX);
    for field in [&mut machine.cpu, &mut machine.kernel, &mut machine.os, &mut machine.virtualization] {
        field.clone_from(&evil);
    }
    results
}

fn all_tests(contender: &str, link: Link, gigabits: f64) -> Vec<Series> {
    let mut all = Vec::new();
    for direction in [Direction::Up, Direction::Down] {
        for (test, gain) in [(Test::TcpSingle { direction }, 1.0), (Test::TcpParallel { flows: 4, direction }, 1.2)] {
            all.push(series(contender, link, test, &around(gigabits * gain * 1e9), |bits| Sample {
                bits_per_second: bits,
                packets_per_second: bits / 8.0 / 1448.0,
                ns_per_packet: contender.starts_with("minivpn").then_some(1.2e13 / bits),
                ..Sample::default()
            }));
        }
        for size in [64, 512, 1300] {
            let test = Test::Udp { size, direction };
            let rate = gigabits * 1e5 * (1.0 - f64::from(size) / 4000.0);
            all.push(series(contender, link, test, &around(rate), |packets| Sample {
                bits_per_second: packets * f64::from(size) * 8.0,
                packets_per_second: packets,
                loss: 0.002,
                ..Sample::default()
            }));
        }
    }
    for (test, base) in [(Test::LatencyIdle, 20.0), (Test::LatencyLoaded, 180.0)] {
        let trips = around(base * (1.0 + 6.0 / gigabits));
        let sample = |p50| Sample { latency_us: Some(latency(p50)), ..Sample::default() };
        all.push(series(contender, link, test, &trips, sample));
    }
    all
}

/// Five values, the middle one `value`.
fn around(value: f64) -> [f64; 5] {
    [0.93, 1.03, 1.0, 0.98, 1.05].map(|factor| factor * value)
}

fn series(contender: &str, link: Link, test: Test, values: &[f64], sample: impl Fn(f64) -> Sample) -> Series {
    let sample = |(round, value): (usize, &f64)| Sample { round: round as u32, ..sample(*value) };
    Series {
        contender: contender.to_owned(),
        offloads: "TUN TSO4 TSO6 USO, UDP_SEGMENT, UDP_GRO".to_owned(),
        link,
        test,
        samples: values.iter().enumerate().map(sample).collect(),
    }
}

fn latency(p50: f64) -> Latency {
    let shape =
        [(0.7, 500), (0.9, 2000), (1.0, 2500), (1.2, 3000), (1.6, 1000), (2.5, 850), (5.0, 130), (12.0, 18), (30.0, 2)];
    Latency {
        min: p50 * 0.7,
        p50,
        p90: p50 * 1.6,
        p99: p50 * 2.5,
        p999: p50 * 12.0,
        max: p50 * 30.0,
        histogram: shape.map(|(factor, count)| ((p50 * factor).max(0.0) as u64, count)).to_vec(),
    }
}
