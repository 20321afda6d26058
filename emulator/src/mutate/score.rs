//! What a number of noticed mutants is worth.

/// How many mutants were noticed, of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Score {
    /// Noticed.
    pub noticed: u64,
    /// Tried.
    pub tried: u64,
}

impl Score {
    /// The share of mutants that were noticed; 0 if none were tried.
    pub fn share(self) -> f64 {
        match self.tried {
            0 => 0.0,
            tried => self.noticed as f64 / tried as f64,
        }
    }

    /// What the share among all mutants is at least, with 95 % confidence: see [`at_least`].
    pub fn at_least(self) -> f64 {
        at_least(self.noticed, self.tried, 0.95)
    }
}

/// The lower bound of a share by Clopper and Pearson, one-sided: the share at which as many or more
/// of `tried` are noticed with a chance of `1 - confidence`. Exact for independent draws; for a sample
/// in strata it is on the safe side (Hoeffding 1956), and the share that it bounds is that of the
/// strata weighted as they were drawn.
pub fn at_least(noticed: u64, tried: u64, confidence: f64) -> f64 {
    if noticed == 0 {
        return 0.0;
    }
    let noticed = noticed.min(tried);
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if tail(noticed, tried, middle) < 1.0 - confidence {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// The chance that at least `k` of `n` happen that happen with the chance `p` each.
fn tail(k: u64, n: u64, p: f64) -> f64 {
    // Logarithm of n over k, then each term from the one before.
    let choose: f64 = (0..k).map(|i| ((n - i) as f64 / (k - i) as f64).ln()).sum();
    let (odds, rest) = (p.ln() - (-p).ln_1p(), (-p).ln_1p());
    let mut term = choose + k as f64 * p.ln() + (n - k) as f64 * rest;
    let mut sum = 0.0;
    for i in k..=n {
        sum += term.exp();
        term += ((n - i) as f64 / (i + 1) as f64).ln() + odds;
    }
    sum
}
