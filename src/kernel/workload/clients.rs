//! Several clients in one workload: each with arrivals, lengths and a name of its own.
//!
//! A client draws from a seed of its own, made of the seed of the workload and its name: clients that come or go leave
//! the others as they are. Requests are put in order of their arrivals; of one instant, in that of the clients.

use super::generate::{Cx, Made, Synthetic, draw, tidy};
use super::{ArrivalProcess, ClosedLoop, Problem, Problems, Windows, chain};
use crate::request::Requests;
use crate::rng;
use crate::units::{SimDuration, SimTime};

/// Clients, and how many of their requests there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clients {
    pub clients: Vec<Client>,
    /// The first so many of all. Default: all that arrive within `duration_s`.
    pub requests: Option<u32>,
    /// Requests that arrive before this, in seconds.
    pub duration_s: Option<f64>,
}

/// A client.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// Not that of another client.
    pub name: String,
    pub tenant: Option<String>,
    pub class: Option<String>,
    pub model: Option<String>,
    pub adapter: Option<String>,
    /// Lower goes first.
    pub priority: Option<i32>,
    /// After its arrival a request should be done.
    pub deadline_s: Option<f64>,
    /// After its arrival a request is given up.
    pub timeout_s: Option<f64>,
    pub body: Body,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Requests of one kind. How many is the business of [`Clients`].
    Alike(Box<Synthetic>),
    /// From window to window other ones.
    Windows(Box<Windows>),
}

impl Client {
    /// One that sends these requests, and nothing else known of it.
    pub fn new(name: impl Into<String>, body: Body) -> Client {
        Client {
            name: name.into(),
            tenant: None,
            class: None,
            model: None,
            adapter: None,
            priority: None,
            deadline_s: None,
            timeout_s: None,
            body,
        }
    }

    fn base(&self) -> &Synthetic {
        match &self.body {
            Body::Alike(body) => body,
            Body::Windows(windows) => &windows.base,
        }
    }

    /// Requests, or sessions, per second: about.
    fn mean_rps(&self) -> f64 {
        match &self.body {
            Body::Windows(windows) => windows.mean_rps(),
            Body::Alike(body) => match (&body.arrivals, &body.rate_schedule, body.rate_rps) {
                (ArrivalProcess::ClosedLoop(ClosedLoop { users, think_time, turn_s }), _, _) => {
                    f64::from(*users) / (think_time.mean_s() + turn_s)
                }
                (_, Some(schedule), _) => schedule.mean_rps(),
                (_, None, rate) => rate.unwrap_or(0.0),
            },
        }
    }

    /// Its prompts need block hashes.
    fn shares(&self) -> bool {
        let base = self.base();
        let alike = matches!(self.body, Body::Alike(_));
        let accumulates = alike && base.sessions.as_ref().is_some_and(|s| s.accumulate);
        let prefixes = base.shared_prefix.is_some() || base.prefix_tree.is_some() || !base.prefix_groups.is_empty();
        base.system_prompt.is_some() || prefixes || accumulates || alike && base.chains.is_some()
    }

    fn draw(&self, seed: u64, hash: bool, most: usize, until: SimTime) -> Made {
        let named = |label: &[u8], name: &str| chain(rng::fnv1a(label), rng::fnv1a(name.as_bytes()));
        // Another model or adapter makes other keys and values of the same words.
        let root = |root, label: &[u8], name: &Option<String>| match name {
            Some(name) => chain(root, named(label, name)),
            None => root,
        };
        let of_model = root(0, b"workload/model", &self.model);
        let cx = Cx {
            seed: chain(named(b"workload/clients", &self.name), seed),
            common: seed,
            most,
            until,
            hash,
            root: root(of_model, b"workload/adapter", &self.adapter),
            name: rng::fnv1a(self.tenant.as_ref().unwrap_or(&self.name).as_bytes()),
        };
        match &self.body {
            Body::Alike(body) => draw(body, &cx),
            Body::Windows(windows) => windows.draw(&cx),
        }
    }
}

impl Clients {
    /// Everything that is wrong, with paths `clients.<place>.<field of the body>`.
    pub fn problems(&self) -> Vec<Problem> {
        let Clients { clients, requests, duration_s } = self;
        let mut own = Problems::below("");
        own.require(*requests != Some(0), "requests", || "must be at least 1".to_owned());
        own.require(requests.is_some() || duration_s.is_some(), "requests", || {
            "is missing: how many requests, or for how long (`duration_s`)".to_owned()
        });
        if let Some(s) = duration_s {
            own.require_positive(*s, "duration_s");
        }
        own.require(!clients.is_empty(), "clients", || "must be at least one".to_owned());
        let mut all = own.found;
        for (i, client) in clients.iter().enumerate() {
            let path = format!("clients.{i}");
            let mut own = Problems::below(&path);
            for (time, field) in [(client.deadline_s, "deadline_s"), (client.timeout_s, "timeout_s")] {
                if let Some(s) = time {
                    own.require_positive(s, field);
                }
            }
            all.extend(own.found);
            let body = match &client.body {
                Body::Alike(body) => body.body_problems(),
                Body::Windows(windows) => windows.problems(),
            };
            all.extend(body.into_iter().map(|p| Problem { path: format!("{path}.{}", p.path), ..p }));
        }
        all
    }
}

/// No workload is longer, in seconds: three hundred years are where times end.
const LONGEST_S: f64 = 9e9;

/// The requests of all clients.
///
/// `workload` must have no [`problems`](Clients::problems).
pub fn generate_clients(workload: &Clients, seed: u64) -> Made {
    let Clients { clients, requests, duration_s } = workload;
    let most = requests.map_or(usize::MAX, |n| n as usize);
    let hash = clients.iter().any(Client::shares);
    let all_until = |s: f64| -> Vec<Made> {
        let until = SimTime::ZERO + SimDuration::from_s(s);
        clients.iter().map(|client| client.draw(seed, hash, most, until)).collect()
    };
    let longest = duration_s.unwrap_or(LONGEST_S).min(LONGEST_S);
    let rate: f64 = clients.iter().map(Client::mean_rps).sum();
    // As far as the requests are expected to go, and on if they are not enough: what arrives by then stays the same.
    let mut until_s = match requests {
        Some(n) if rate > 0.0 => (1.1 * f64::from(*n) / rate + 1.0).min(longest),
        _ => longest,
    };
    let parts = loop {
        let parts = all_until(until_s);
        if until_s >= longest || parts.iter().map(|made| made.requests.len()).sum::<usize>() >= most {
            break parts;
        }
        until_s = (2.0 * until_s).min(longest);
    };
    merge(clients, parts, most)
}

/// Puts the first `most` requests of all clients in order.
fn merge(clients: &[Client], parts: Vec<Made>, most: usize) -> Made {
    let mut order: Vec<(SimTime, u32, u32)> = Vec::new();
    for (client, part) in (0u32..).zip(&parts) {
        order.extend((0u32..).zip(&part.requests.arrival).map(|(i, at)| (*at, client, i)));
    }
    order.sort_unstable();
    order.truncate(most);
    let mut names = Names::default();
    let known: Vec<Known> = clients.iter().map(|client| names.of(client)).collect();
    let mut made = Made { client_names: clients.iter().map(|c| c.name.clone()).collect(), ..Made::default() };
    let hashed = parts.iter().map(|p| p.requests.block_tokens).max().unwrap_or(0);
    made.requests.block_tokens = hashed;
    made.requests.block_hash_offsets.push(0);
    made.requests.depends_on_offsets.push(0);
    // Numbers of requests and of sessions in the whole, by client and number in it.
    let mut numbers: Vec<Vec<u32>> = parts.iter().map(|p| Vec::with_capacity(p.requests.len())).collect();
    let mut sessions: Vec<std::collections::BTreeMap<u32, u32>> = vec![Default::default(); parts.len()];
    let mut next_session = 0;
    for (at, client, i) in order {
        let (of, i) = (client as usize, i as usize);
        let part = &parts[of];
        numbers[of].push(made.requests.len() as u32);
        let session = known_at(&part.requests.session, i).map(|session| {
            *sessions[of].entry(session).or_insert_with(|| {
                next_session += 1;
                next_session - 1
            })
        });
        // Steps of agents have classes of their own.
        let step = known_at(&part.requests.class, i).map(|c| &part.requests.class_names[c as usize]);
        let class = known[of].class.or_else(|| step.map(|name| number(&mut names.classes, name)));
        push(&mut made, part, (of, i), &Known { class, ..known[of] }, (at, session));
        made.requests.depends_on.extend(part.requests.waits_for(i).iter().map(|r| numbers[of][*r as usize]));
        made.requests.depends_on_offsets.push(made.requests.depends_on.len() as u64);
    }
    names.finish(&mut made);
    made
}

/// What is known of a client, by number.
#[derive(Clone, Copy, Default)]
struct Known {
    tenant: Option<u32>,
    class: Option<u32>,
    model: Option<u32>,
    adapter: Option<u32>,
    priority: Option<i32>,
    deadline: Option<SimDuration>,
    timeout: Option<SimDuration>,
}

/// Names that several clients may share.
#[derive(Default)]
struct Names {
    tenants: Vec<String>,
    classes: Vec<String>,
    models: Vec<String>,
    adapters: Vec<String>,
}

/// The number of a name, which is new if it is not there.
fn number(names: &mut Vec<String>, name: &str) -> u32 {
    let at = names.iter().position(|n| n == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    });
    at as u32
}

impl Names {
    fn of(&mut self, client: &Client) -> Known {
        let number = |names: &mut Vec<String>, name: &Option<String>| name.as_ref().map(|name| number(names, name));
        Known {
            tenant: number(&mut self.tenants, &client.tenant),
            class: number(&mut self.classes, &client.class),
            model: number(&mut self.models, &client.model),
            adapter: number(&mut self.adapters, &client.adapter),
            priority: client.priority,
            deadline: client.deadline_s.map(SimDuration::from_s),
            timeout: client.timeout_s.map(SimDuration::from_s),
        }
    }

    fn finish(self, made: &mut Made) {
        made.tenant_names = self.tenants;
        made.requests.class_names = self.classes;
        made.requests.model_names = self.models;
        made.requests.adapter_names = self.adapters;
        if made.requests.depends_on.is_empty() {
            made.requests.depends_on_offsets.clear();
        }
        fn clear<T>(column: &mut Vec<Option<T>>) {
            if column.iter().all(Option::is_none) {
                *column = Vec::new();
            }
        }
        let Requests { tenant, class, priority, deadline, timeout, session, .. } = &mut made.requests;
        clear(tenant);
        clear(class);
        clear(session);
        clear(priority);
        clear(deadline);
        clear(timeout);
        tidy(&mut made.requests);
        clear(&mut made.images);
        clear(&mut made.reasoning);
    }
}

fn push(
    made: &mut Made,
    part: &Made,
    (client, i): (usize, usize),
    known: &Known,
    (at, session): (SimTime, Option<u32>),
) {
    let to = &mut made.requests;
    let from = &part.requests;
    to.arrival.push(at);
    to.input_tokens.push(from.input_tokens[i]);
    to.output_tokens.push(from.output_tokens[i]);
    to.encoder_tokens.push(known_at(&from.encoder_tokens, i));
    to.think.push(known_at(&from.think, i));
    to.session.push(session);
    to.tenant.push(known.tenant);
    to.class.push(known.class);
    to.model.push(known.model);
    to.adapter.push(known.adapter);
    to.priority.push(known.priority);
    to.deadline.push(known.deadline);
    to.timeout.push(known.timeout);
    to.block_hashes.extend_from_slice(from.hashes(i));
    to.block_hash_offsets.push(to.block_hashes.len() as u64);
    made.images.push(known_at(&part.images, i));
    made.reasoning.push(known_at(&part.reasoning, i));
    made.client.push(Some(client as u32));
}

/// A value of a column that is empty where nothing is said.
fn known_at<T: Copy>(column: &[Option<T>], i: usize) -> Option<T> {
    column.get(i).copied().flatten()
}
