//! The AEAD: one data packet sealed and opened, on every backend that this build and this host have.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dataplane::datachannel::aead::{Aead, AeadChoice, OpeningKey, SealingKey};
use dataplane::datachannel::header::{DataHeader, SendHeader};
use link::message::{Cipher, DirectionKey, Secret};

/// Plaintext bytes.
const SIZES: [usize; 6] = [64, 256, 512, 1_400, 4_096, 9_000];

fn aead(criterion: &mut Criterion) {
    for cipher in [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305] {
        seal(criterion, cipher);
        open(criterion, cipher);
    }
}

fn seal(criterion: &mut Criterion, cipher: Cipher) {
    let mut group = criterion.benchmark_group(format!("aead/seal/{}", cipher.name()));
    let header = SendHeader::new(Some(5), 0);
    for (aead, len) in backends(cipher) {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new(aead.info().name, len), |bencher| {
            let mut key = SealingKey::new(&aead, cipher, &key(cipher)).expect("a good key");
            let (plaintext, mut out) = (vec![7; len], vec![0; len + header.overhead()]);
            let mut packet_id = 0u32;
            bencher.iter(|| {
                packet_id = packet_id.wrapping_add(1);
                assert!(key.seal(&header, packet_id, black_box(&plaintext), &mut out));
            });
        });
    }
    group.finish();
}

fn open(criterion: &mut Criterion, cipher: Cipher) {
    let mut group = criterion.benchmark_group(format!("aead/open/{}", cipher.name()));
    let header = SendHeader::new(Some(5), 0);
    for (aead, len) in backends(cipher) {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new(aead.info().name, len), |bencher| {
            let mut sealed = vec![0; len + header.overhead()];
            let mut sealing = SealingKey::new(&aead, cipher, &key(cipher)).expect("a good key");
            assert!(sealing.seal(&header, 9, &vec![7; len], &mut sealed));
            let mut key = OpeningKey::new(&aead, cipher, &key(cipher)).expect("a good key");
            let mut out = vec![0; len];
            bencher.iter(|| {
                let (header, parts) = DataHeader::parse(black_box(&sealed)).expect("a data packet");
                assert!(key.open(header.packet_id, &parts, &mut out));
            });
        });
    }
    group.finish();
}

/// Every backend with every size. ipsec-mb leaves ChaCha20-Poly1305 to the library.
fn backends(cipher: Cipher) -> Vec<(Aead, usize)> {
    let mut backends = vec![Aead::default()];
    if cipher != Cipher::ChaCha20Poly1305 {
        backends.extend(Aead::resolve(AeadChoice::IpsecMb));
    }
    #[cfg(feature = "no-crypto")]
    backends.push(Aead::none());
    backends.iter().flat_map(|aead| SIZES.map(|len| (aead.clone(), len))).collect()
}

fn key(cipher: Cipher) -> DirectionKey {
    DirectionKey { key: Secret(vec![1; cipher.key_len()]), implicit_iv: Secret(vec![2; 8]) }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = aead
}
criterion_main!(benches);
