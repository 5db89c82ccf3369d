//! The random numbers of Python's `random.Random` and of numpy's legacy generator, bit for bit as far as `log` and `exp`
//! of the C library round as [`libm`] does.
//!
//! Both are the Mersenne Twister MT19937 (Matsumoto, Nishimura 1998), seeded in two ways. Their seeds are the same
//! integer, their streams are independent of each other.

const N: usize = 624;
const M: usize = 397;
const UPPER: u32 = 0x8000_0000;
const LOWER: u32 = 0x7fff_ffff;
/// The twist of the recurrence.
const MATRIX: u32 = 0x9908_b0df;

/// MT19937.
struct MersenneTwister {
    state: [u32; N],
    /// The next word to hand out; `N` where all are used up.
    next: usize,
}

impl MersenneTwister {
    /// `init_genrand` of its authors: from one number.
    fn of_number(seed: u32) -> MersenneTwister {
        let mut state = [seed; N];
        for i in 1..N {
            state[i] = mixed(state[i - 1]).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        MersenneTwister { state, next: N }
    }

    /// `init_by_array` of its authors, for an array of one number.
    fn of_array(seed: u32) -> MersenneTwister {
        let mut twister = MersenneTwister::of_number(19_650_218);
        let state = &mut twister.state;
        let mut i = 1;
        for _ in 0..N {
            state[i] = (state[i] ^ mixed(state[i - 1]).wrapping_mul(1_664_525)).wrapping_add(seed);
            i = following(state, i);
        }
        for _ in 1..N {
            state[i] = (state[i] ^ mixed(state[i - 1]).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i = following(state, i);
        }
        state[0] = UPPER;
        twister
    }

    fn word(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.state[i] & UPPER) | (self.state[(i + 1) % N] & LOWER);
            let twisted = if y & 1 == 0 { 0 } else { MATRIX };
            self.state[i] = self.state[(i + M) % N] ^ (y >> 1) ^ twisted;
        }
        self.next = 0;
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    fn uniform01(&mut self) -> f64 {
        let (high, low) = (self.word() >> 5, self.word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }
}

fn mixed(word: u32) -> u32 {
    word ^ (word >> 30)
}

/// The place after `i` in the rounds of `init_by_array`.
fn following(state: &mut [u32; N], i: usize) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

/// `random.Random(seed)`.
pub struct PythonRandom(MersenneTwister);

impl PythonRandom {
    pub fn new(seed: u32) -> PythonRandom {
        PythonRandom(MersenneTwister::of_array(seed))
    }

    /// The place that `choice` takes of a sequence of `n`, at least 1 and below 2^32: the first number below `n` among
    /// those of as many bits as `n` has.
    pub fn choice(&mut self, n: u32) -> u32 {
        loop {
            let place = self.0.word() >> n.leading_zeros();
            if place < n {
                return place;
            }
        }
    }

    /// `expovariate(rate)`: exponential of mean `1 / rate`.
    pub(super) fn exponential(&mut self, rate: f64) -> f64 {
        -libm::log(1.0 - self.0.uniform01()) / rate
    }
}

/// `numpy.random.seed(seed)` and what follows from it.
pub(super) struct NumpyLegacy {
    twister: MersenneTwister,
    /// The second number of a pair, for the next call.
    cached: Option<f64>,
}

impl NumpyLegacy {
    pub(super) fn new(seed: u32) -> NumpyLegacy {
        NumpyLegacy { twister: MersenneTwister::of_number(seed), cached: None }
    }

    /// Normal of mean 0 and standard deviation 1, by the polar method (Marsaglia): numbers come in pairs, the second one
    /// first.
    fn gauss(&mut self) -> f64 {
        if let Some(second) = self.cached.take() {
            return second;
        }
        loop {
            let x = 2.0 * self.twister.uniform01() - 1.0;
            let y = 2.0 * self.twister.uniform01() - 1.0;
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                let factor = libm::sqrt(-2.0 * libm::log(square) / square);
                self.cached = Some(factor * x);
                return factor * y;
            }
        }
    }

    /// `lognormal(mu, sigma)`.
    pub(super) fn lognormal(&mut self, mu: f64, sigma: f64) -> f64 {
        libm::exp(mu + sigma * self.gauss())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of CPython 3.11 and numpy 2.4, which have not changed since the first releases.
    #[test]
    fn words_and_uniforms_are_those_of_python_and_numpy() {
        for (seed, python, numpy) in [
            (0, [3_626_764_237, 1_654_615_998], [2_357_136_044, 2_546_248_239]),
            (1, [577_090_037, 2_444_712_010], [1_791_095_845, 4_282_876_139]),
            (42, [2_746_317_213, 478_163_327], [1_608_637_542, 3_421_126_067]),
            (u32::MAX, [2_728_839_433, 2_661_025_012], [419_326_371, 479_346_978]),
        ] {
            let mut twister = MersenneTwister::of_array(seed);
            assert_eq!([twister.word(), twister.word()], python, "{seed}");
            let mut twister = MersenneTwister::of_number(seed);
            assert_eq!([twister.word(), twister.word()], numpy, "{seed}");
        }
        let mut twister = MersenneTwister::of_array(42);
        let uniforms: Vec<f64> = (0..1000).map(|_| twister.uniform01()).collect();
        assert_eq!(uniforms[..2], [0.6394267984578837, 0.025010755222666936]);
        // More than one round of the state.
        assert_eq!(uniforms[999], 0.8554501933059546);
        let mut twister = MersenneTwister::of_number(42);
        assert_eq!([twister.uniform01(), twister.uniform01()], [0.3745401188473625, 0.9507143064099162]);
    }

    #[test]
    fn choices_are_those_of_python() {
        let lengths = [1, 2, 3, 4, 4, 4, 3, 5, 1, 1, 7, 4];
        for (seed, places) in [(67, [0, 0, 1, 3, 3, 2, 2, 3, 0, 0, 1, 0]), (1, [0, 0, 1, 0, 3, 3, 1, 3, 0, 0, 3, 0])] {
            let mut python = PythonRandom::new(seed);
            assert_eq!(lengths.map(|n| python.choice(n)), places, "{seed}");
        }
    }

    #[track_caller]
    fn close(got: f64, expect: f64) {
        // Two units in the last place: what the logarithms and exponentials of two libraries may differ by.
        assert!((got - expect).abs() <= 4.5e-16 * expect.abs(), "{got}, not {expect}");
    }

    #[test]
    fn distributions_are_those_of_python_and_numpy() {
        for (seed, gaps, normals) in [
            (42, [0.5100301436374005, 0.012664419521369446], [0.4967141530112327, -0.13826430117118466]),
            (1, [0.0721455320547546, 0.9400781327103127], [1.6243453636632417, -0.6117564136500754]),
            (u32::MAX, [0.5044188521118893, 0.1135757484191774], [0.6484086742306527, 0.6693235306338161]),
        ] {
            let mut python = PythonRandom::new(seed);
            gaps.into_iter().for_each(|gap| close(python.exponential(2.0), gap));
            let mut numpy = NumpyLegacy::new(seed);
            normals.into_iter().for_each(|normal| close(numpy.gauss(), normal));
        }
        let mut numpy = NumpyLegacy::new(42);
        let normals: Vec<f64> = (0..2001).map(|_| numpy.gauss()).collect();
        close(normals[1999], -0.7449026448064491);
        close(normals[2000], -0.6751782749743815);
        let mut numpy = NumpyLegacy::new(42);
        close(numpy.lognormal(6.0, 1.0), 662.9596661801309);
        close(numpy.lognormal(6.0, 1.0), 351.33342411633873);
    }
}
