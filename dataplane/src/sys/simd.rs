//! Sums of 16-bit words with the widest vectors that this CPU has: the inner loop of the Internet checksum
//! ([`tun::checksum`](crate::tun::checksum)). Only the loops and their choice are here; what a sum means is there.
//!
//! x86 multiplies and adds *signed* words, so each word is moved by −32,768 first, and a vector's worth of that is put back at
//! the end. Everything is in the host's byte order: a one's complement sum does not care (RFC 1071 §2).

use std::sync::atomic::{AtomicU8, Ordering};

/// Which loop sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    /// 8 bytes at a time; any CPU.
    Scalar = 1,
    /// 16 bytes at a time; every aarch64.
    Neon = 2,
    /// 32 bytes at a time.
    Avx2 = 3,
    /// 64 bytes at a time (AVX-512F and AVX-512BW).
    Avx512 = 4,
}

/// Every level, the best last.
const ALL: [Level; 4] = [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512];

/// The level that was chosen; 0 before the first call.
static CHOSEN: AtomicU8 = AtomicU8::new(0);

impl Level {
    /// The best one that this CPU has. Found out once per process.
    #[inline]
    pub fn best() -> Level {
        match CHOSEN.load(Ordering::Relaxed) {
            0 => choose(),
            chosen => Level::from_number(chosen),
        }
    }

    /// Those that this CPU has, for tests and measurements.
    pub fn available() -> impl Iterator<Item = Level> {
        ALL.into_iter().filter(|level| level.is_available())
    }

    /// Whether this CPU, and its kernel, has it.
    fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns)] // which ones are left depends on the architecture
            _ => false,
        }
    }

    #[inline]
    fn from_number(number: u8) -> Level {
        match number {
            4 => Level::Avx512,
            3 => Level::Avx2,
            2 => Level::Neon,
            _ => Level::Scalar,
        }
    }
}

#[cold]
fn choose() -> Level {
    let best = Level::available().last().unwrap_or(Level::Scalar);
    CHOSEN.store(best as u8, Ordering::Relaxed);
    best
}

/// No loop sums more than this at once: its 32-bit lanes hold that many bytes and no more is needed for a packet.
const PIECE: usize = 64 * 1024;

/// The sum of the 16-bit words of `bytes`, in the host's byte order, not folded; an odd last byte is followed by a zero.
/// Any length and alignment. Each level gives a number that is the same modulo 65,535, and 0 only for zeros.
#[inline]
pub fn sum(bytes: &[u8]) -> u64 {
    match Level::best() {
        Level::Scalar => scalar(bytes),
        best => vector(best, bytes),
    }
}

/// [`sum`] with this level; one that this CPU does not have sums as [`Level::Scalar`].
pub fn sum_with(level: Level, bytes: &[u8]) -> u64 {
    if level.is_available() { vector(level, bytes) } else { scalar(bytes) }
}

/// The level is one that [`Level::is_available`] said yes to: `sum` has it from there by way of [`choose`], `sum_with` asks.
#[inline]
fn vector(level: Level, bytes: &[u8]) -> u64 {
    let each = |piece: &[u8]| match level {
        // SAFETY: avx512 needs the CPU to have AVX-512F and AVX-512BW, and is safe otherwise: it takes a slice. This level gets here
        // only when `is_available` found both, in this process (see above).
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::avx512(piece) },
        // SAFETY: as above, with AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::avx2(piece) },
        // SAFETY: as above, with NEON.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { arm::neon(piece) },
        _ => scalar(piece),
    };
    if bytes.len() <= PIECE {
        return each(bytes);
    }
    // PIECE is even, so that words stay whole.
    bytes.chunks(PIECE).map(each).sum()
}

/// 64-bit words, halved so that their sum cannot overflow, then what is left of them.
#[inline]
pub fn scalar(bytes: &[u8]) -> u64 {
    let halves = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        (word & 0xffff_ffff) + (word >> 32)
    };
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 4];
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += halves(word);
        }
    }
    let mut total = lanes[0] + lanes[1] + lanes[2] + lanes[3];
    let (words, rest) = rest.as_chunks::<8>();
    for word in words {
        total += halves(word);
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    match rest {
        [last] => total + u64::from(u16::from_ne_bytes([*last, 0])),
        _ => total,
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// What the vectors were moved by: 32,768 for each 16-bit word of `bytes` bytes.
    #[inline]
    fn moved(bytes: usize) -> u64 {
        (bytes as u64 / 2) << 15
    }

    /// A lane gets at most 2 · 32,768 from each vector, and a piece is at most 1,024 vectors: its i32 holds that.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn avx512(bytes: &[u8]) -> u64 {
        let sign = _mm512_set1_epi16(i16::MIN);
        let ones = _mm512_set1_epi16(1);
        let add = |sum: __m512i, vector: __m512i| {
            _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_xor_si512(vector, sign), ones))
        };
        let mut sums = [_mm512_setzero_si512(); 4];
        let (blocks, rest) = bytes.as_chunks::<256>();
        for block in blocks {
            let (vectors, _) = block.as_chunks::<64>();
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                // SAFETY: reads 64 bytes at any alignment; `vector` borrows 64.
                *sum = add(*sum, unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) });
            }
        }
        let mut moved_bytes = blocks.len() * 256;
        let (vectors, tail) = rest.as_chunks::<64>();
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            // SAFETY: reads 64 bytes at any alignment; `vector` borrows 64.
            *sum = add(*sum, unsafe { _mm512_loadu_si512(vector.as_ptr().cast()) });
        }
        moved_bytes += vectors.len() * 64;
        if !tail.is_empty() {
            // 1 to 63 bytes.
            let mask = (1u64 << tail.len()) - 1;
            // SAFETY: reads, at any alignment, only the bytes whose bit in `mask` is set: the `tail.len()` first, which `tail`
            // borrows; the others are not touched and count as zero.
            let vector = unsafe { _mm512_maskz_loadu_epi8(mask, tail.as_ptr().cast()) };
            sums[3] = add(sums[3], vector);
            moved_bytes += 64;
        }
        let pair = _mm512_add_epi32(sums[0], sums[1]);
        let all = _mm512_add_epi32(pair, _mm512_add_epi32(sums[2], sums[3]));
        // What was moved is more than any lane is below zero, so the total is not negative.
        moved(moved_bytes).wrapping_add_signed(i64::from(_mm512_reduce_add_epi32(all)))
    }

    /// A lane gets at most 2 · 32,768 from each vector, and a piece is at most 2,048 vectors: its i32 holds that.
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2(bytes: &[u8]) -> u64 {
        let sign = _mm256_set1_epi16(i16::MIN);
        let ones = _mm256_set1_epi16(1);
        let add = |sum: __m256i, vector: __m256i| {
            _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_xor_si256(vector, sign), ones))
        };
        let mut sums = [_mm256_setzero_si256(); 4];
        let (blocks, rest) = bytes.as_chunks::<128>();
        for block in blocks {
            let (vectors, _) = block.as_chunks::<32>();
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                // SAFETY: reads 32 bytes at any alignment; `vector` borrows 32.
                *sum = add(*sum, unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) });
            }
        }
        let (vectors, tail) = rest.as_chunks::<32>();
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            // SAFETY: reads 32 bytes at any alignment; `vector` borrows 32.
            *sum = add(*sum, unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) });
        }
        let pair = _mm256_add_epi32(sums[0], sums[1]);
        let all = _mm256_add_epi32(pair, _mm256_add_epi32(sums[2], sums[3]));
        let half = _mm_add_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
        let quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
        let last = _mm_add_epi32(quarter, _mm_shuffle_epi32::<1>(quarter));
        let moved_bytes = blocks.len() * 128 + vectors.len() * 32;
        moved(moved_bytes).wrapping_add_signed(i64::from(_mm_cvtsi128_si32(last))) + super::scalar(tail)
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    /// A lane gets at most 2 · 65,535 from each vector, and a piece is at most 4,096 vectors: its u32 holds that.
    #[target_feature(enable = "neon")]
    pub(super) fn neon(bytes: &[u8]) -> u64 {
        let mut sums = [vdupq_n_u32(0); 4];
        let (blocks, rest) = bytes.as_chunks::<64>();
        let (vectors, tail) = rest.as_chunks::<16>();
        for block in blocks {
            let (vectors, _) = block.as_chunks::<16>();
            for (sum, vector) in sums.iter_mut().zip(vectors) {
                // SAFETY: reads 16 bytes at any alignment; `vector` borrows 16.
                *sum = vpadalq_u16(*sum, vreinterpretq_u16_u8(unsafe { vld1q_u8(vector.as_ptr()) }));
            }
        }
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            // SAFETY: reads 16 bytes at any alignment; `vector` borrows 16.
            *sum = vpadalq_u16(*sum, vreinterpretq_u16_u8(unsafe { vld1q_u8(vector.as_ptr()) }));
        }
        let total = vaddq_u32(vaddq_u32(sums[0], sums[1]), vaddq_u32(sums[2], sums[3]));
        vaddlvq_u32(total) + super::scalar(tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word.
    fn plain(bytes: &[u8]) -> u64 {
        bytes.chunks(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
    }

    /// The number that a folded sum is: 0 for zeros only, 65,535 for its multiples.
    fn folded(sum: u64) -> u64 {
        if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 }
    }

    fn pseudo_random(len: usize, seed: u32) -> Vec<u8> {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    /// Lengths that Miri, which is slow, tries: around every boundary.
    fn lengths() -> impl Iterator<Item = usize> {
        let step = if cfg!(miri) { 61 } else { 1 };
        (0..if cfg!(miri) { 300 } else { 2001 })
            .step_by(step)
            .chain([15, 16, 17, 31, 63, 64, 65, 127, 255, 256, 257, 511])
    }

    #[test]
    fn every_level_agrees_with_the_plain_sum_at_every_length_and_alignment() {
        let starts = if cfg!(miri) { 3 } else { 65 };
        for fill in [None, Some(0xff), Some(0x80), Some(0x7f), Some(0)] {
            let bytes = fill.map_or_else(|| pseudo_random(2100, 7), |byte| vec![byte; 2100]);
            for len in lengths() {
                // Constant bytes are the same wherever they start.
                let starts = if fill.is_some() { 1 } else { starts };
                for start in 0..starts {
                    let piece = &bytes[start..start + len];
                    let expected = folded(plain(piece));
                    for level in Level::available() {
                        assert_eq!(folded(sum_with(level, piece)), expected, "{level:?} {start} {len} {fill:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_overflows_behind_the_longest_piece() {
        // Miri takes a minute for each.
        let (fills, lens) = ([0xff, 0x80, 0x00], [PIECE + 1, PIECE - 1, PIECE, 5 * PIECE + 77]);
        let (fills, lens) = if cfg!(miri) { (&fills[..1], &lens[..1]) } else { (&fills[..], &lens[..]) };
        for &fill in fills {
            for &len in lens {
                let bytes = vec![fill; len];
                let expected = folded(plain(&bytes));
                for level in Level::available() {
                    assert_eq!(folded(sum_with(level, &bytes)), expected, "{level:?} {len} {fill}");
                }
            }
        }
    }

    #[test]
    fn the_chosen_level_is_the_best_one_and_stays() {
        assert_eq!(Some(Level::best()), Level::available().last());
        assert_eq!(Level::best(), Level::best());
        assert_eq!(Level::available().next(), Some(Level::Scalar));
        for level in ALL {
            assert_eq!(Level::from_number(level as u8), level);
        }
    }

    #[test]
    fn a_level_that_this_cpu_lacks_sums_all_the_same() {
        let bytes = pseudo_random(1001, 3);
        for level in ALL {
            assert_eq!(folded(sum_with(level, &bytes)), folded(plain(&bytes)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 512 }))]

        #[test]
        fn every_level_agrees_on_random_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 200 } else { 2000 }), start in 0usize..64,
        ) {
            let bytes = bytes.get(start..).unwrap_or_default();
            let expected = folded(plain(bytes));
            prop_assert_eq!(folded(sum(bytes)), expected);
            for level in Level::available() {
                prop_assert_eq!(folded(sum_with(level, bytes)), expected, "{:?}", level);
            }
        }
    }
}
