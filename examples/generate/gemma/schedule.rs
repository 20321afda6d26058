//! Requests that come and go, as one batch.

use std::error::Error;

use infer_kernels::Float;

use super::batch::Span;
use super::engine::{Draw, Engine};

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct Request {
    pub prompt: Vec<u32>,
    /// The step from which on it may be served.
    pub arrives: usize,
    /// After so many tokens of its own it is done, if not before.
    pub max_tokens: usize,
}

/// How requests are served.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    pub draw: Draw,
    /// The token that ends a text.
    pub end: u32,
    /// Tokens of prompts in a step.
    pub chunk: usize,
    /// Tokens that are guessed behind the last one and verified in the same step: those that followed
    /// the last time that the same two tokens came. 0: none.
    pub drafts: usize,
}

/// What has happened.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// So many more tokens of a prompt have been read.
    Read { tokens: usize },
    /// A request has got a token.
    Token { request: usize, token: u32 },
    /// A step is over.
    Step {
        /// Tokens that it appended.
        appended: usize,
        /// Whether some were of prompts.
        prompts: bool,
        /// Drafts among them, and how many of them were right.
        drafts: [usize; 2],
    },
}

/// A request that is being served: the tokens that the cache does not have yet are the last ones.
struct Active {
    request: usize,
    sequence: usize,
    tokens: Vec<u32>,
    left: usize,
}

/// Serves requests until all are done; each continues its prompt, in the same order.
pub fn serve<T: Float>(
    engine: &mut Engine<T>,
    requests: &[Request],
    policy: Policy,
    on: &mut dyn FnMut(Event) -> Result<(), Box<dyn Error>>,
) -> Result<Vec<Vec<u32>>, Box<dyn Error>> {
    let mut texts = vec![vec![]; requests.len()];
    let mut waiting: Vec<usize> = (0..requests.len()).rev().collect();
    waiting.sort_by_key(|&request| std::cmp::Reverse(requests[request].arrives));
    let mut free: Vec<usize> = (0..engine.options().sequences).rev().collect();
    let mut active: Vec<Active> = vec![];
    let mut step = 0;
    while !waiting.is_empty() || !active.is_empty() {
        while let Some(&request) = waiting.last()
            && requests[request].arrives <= step
            && let Some(sequence) = free.pop()
        {
            waiting.pop();
            active.push(Active {
                request,
                sequence,
                tokens: requests[request].prompt.clone(),
                left: requests[request].max_tokens,
            });
        }
        step += 1;
        if active.is_empty() {
            continue; // Nobody has come yet.
        }
        active.sort_by_key(|active| active.sequence);
        for (request, token) in append(engine, &mut active, policy, on)? {
            texts[request].push(token);
        }
        active.retain(|active| {
            let done = active.left == 0;
            if done {
                engine.truncate(active.sequence, 0);
                free.push(active.sequence);
            }
            !done
        });
    }
    Ok(texts)
}

/// One step: the next tokens of everyone, and what is drawn behind them.
fn append<T: Float>(
    engine: &mut Engine<T>,
    active: &mut [Active],
    policy: Policy,
    on: &mut dyn FnMut(Event) -> Result<(), Box<dyn Error>>,
) -> Result<Vec<(usize, u32)>, Box<dyn Error>> {
    // Whoever has more than one token behind its cache still reads its prompt.
    let mut budget = policy.chunk;
    let mut spans = vec![];
    for active in active.iter() {
        let len = engine.len(active.sequence);
        let pending = &active.tokens[len..];
        let (mut tokens, mut logits, mut guessed) = (pending.to_vec(), 1, 0);
        if pending.len() > 1 || len == 0 {
            tokens.truncate(budget);
            budget -= tokens.len();
            logits = usize::from(tokens.len() == pending.len());
            on(Event::Read {
                tokens: tokens.len(),
            })?;
        } else {
            let most = policy.drafts.min(active.left.saturating_sub(1));
            tokens.extend(drafts(&active.tokens, most));
            guessed = tokens.len() - 1;
            logits += guessed;
        }
        spans.push((tokens, logits, guessed));
    }
    let prompts = budget < policy.chunk;
    let steps = active
        .iter()
        .zip(&spans)
        .map(|(active, (tokens, logits, _))| Span {
            sequence: active.sequence,
            tokens,
            logits: *logits,
        });
    let steps: Vec<_> = steps.filter(|span| !span.tokens.is_empty()).collect();
    engine.step(&steps)?;
    let appended = steps.iter().map(|span| span.tokens.len()).sum();
    let mut drawn = engine.draw(policy.draw)?.into_iter();

    let (mut got, mut of_drafts) = (vec![], [0; 2]);
    for (active, (tokens, logits, guessed)) in active.iter_mut().zip(&spans) {
        if *logits == 0 {
            continue;
        }
        let rows: Vec<u32> = drawn.by_ref().take(*logits).collect();
        // A draft is right if it is what was drawn before it; behind a wrong one nothing counts.
        let guesses = &tokens[tokens.len() - guessed..];
        let right = rows.iter().zip(guesses).take_while(|(a, b)| a == b).count();
        let of_text = active.tokens.len();
        for &token in &rows[..=right] {
            if active.left > 0 {
                active.left -= 1;
                active.tokens.push(token);
                got.push((active.request, token));
                on(Event::Token {
                    request: active.request,
                    token,
                })?;
                if token == policy.end {
                    active.left = 0;
                }
            }
        }
        of_drafts[0] += guessed;
        of_drafts[1] += right;
        engine.truncate(active.sequence, of_text + right);
    }
    on(Event::Step {
        appended,
        prompts,
        drafts: of_drafts,
    })?;
    Ok(got)
}

/// What followed the last time that the last two tokens came, at most so many tokens.
fn drafts(tokens: &[u32], most: usize) -> &[u32] {
    let Some(before) = tokens.len().checked_sub(2) else {
        return &[];
    };
    let last = &tokens[before..];
    let earlier = (0..before).rev().find(|&at| &tokens[at..at + 2] == last);
    earlier.map_or(&[], |at| {
        let next = &tokens[at + 2..];
        &next[..next.len().min(most)]
    })
}
