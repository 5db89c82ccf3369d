//! The settings of the stage as workloads of the kernel, and where what is wrong with them was written.

use pipe_kernel::workload::{self, Body, Client, Clients, Constant, Lengths, Problem, RateSchedule, Synthetic};

use crate::diag::{Diagnostic, Span, nearest};
use crate::spec::{self, ChainStep, SynthClient, Synthesize, SynthesizeSettings, Text, Tree, TreeValue};

/// What is to be drawn.
#[derive(Clone, Debug)]
pub(super) enum Workload {
    /// Requests of one kind, without clients.
    One(Box<Synthetic>),
    Many(Clients),
}

/// Where the settings come from: keys of which there can be one, and the other keys that each goes with.
const SOURCES: [(&str, &[&str]); 4] = [
    ("spec", &["requests", "duration_s", "block_tokens"]),
    ("preset", &["requests", "duration_s", "rate_rps", "block_tokens"]),
    ("servegen", &["requests", "duration_s", "rate_rps", "block_tokens"]),
    ("from", &["requests", "duration_s", "rate_rps", "block_tokens", "fit"]),
];

/// Keys that do not go together.
pub(super) fn mixed(tree: &Tree) -> Vec<Diagnostic> {
    let TreeValue::Map(entries) = &tree.value else { return Vec::new() };
    let source = SOURCES.iter().find(|(name, _)| entries.iter().any(|(key, _)| key.value == *name));
    let Some((name, with)) = source else {
        let fit = entries.iter().find(|(key, _)| key.value == "fit");
        let message = "`fit` has no meaning without `from`: the table of requests that is to be imitated";
        return fit
            .map(|(key, _)| Diagnostic::new("synthesize::value", message).at(key.at.clone()))
            .into_iter()
            .collect();
    };
    let odd = entries.iter().filter(|(key, _)| key.value != *name && !with.contains(&key.value.as_str()));
    let of_all = with.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let wrong = |(key, _): &(Text, Tree)| {
        let message = format!("`{}` cannot be there together with `{name}`, which says it all", key.value);
        Diagnostic::new("synthesize::value", message)
            .at(key.at.clone())
            .help(format!("beside it there can be {of_all}"))
    };
    odd.map(wrong).collect()
}

/// Lengths that stand for those which are missing, or drawn together.
fn unused() -> Lengths {
    Lengths::Constant(Constant { tokens: 1 })
}

/// Requests of one kind, or of the stage's clients.
///
/// # Errors
/// Settings that are missing.
pub(super) fn own(settings: &SynthesizeSettings, tree: &Tree) -> Result<Workload, Vec<Diagnostic>> {
    let mut missing: Vec<Diagnostic> = Vec::new();
    let wrong = |path: &str, what: String| {
        Diagnostic::new("synthesize::value", format!("`{path}` {what}")).at(place(tree, path).cloned())
    };
    let need = |given: bool, path: &str, what: &str| (!given).then(|| wrong(path, format!("is missing: {what}")));
    let SynthesizeSettings { clients, input, output, joint, rate_rps, rate_schedule, .. } = settings;
    if clients.is_empty() {
        missing.extend(need(input.is_some() || joint.is_some(), "input", "the lengths of the prompts"));
        missing.extend(need(output.is_some() || joint.is_some(), "output", "the lengths of the replies"));
    }
    for (name, client) in clients {
        let joint = client.joint.is_some() || joint.is_some();
        let of = |field: &str| format!("clients.{}.{field}", name.value);
        let neither = "neither the client nor the stage has it";
        missing.extend(need(client.input.is_some() || input.is_some() || joint, &of("input"), neither));
        missing.extend(need(client.output.is_some() || output.is_some() || joint, &of("output"), neither));
        let rated = has_rate(client, settings);
        let shared = rate_rps.is_some() || rate_schedule.is_some();
        missing.extend(need(rated || shared, &of("rate_rps"), neither));
        if rated && client.share.is_some() {
            missing.push(wrong(&of("share"), "has no meaning for a client that has a rate of its own".to_string()));
        }
        if let Some(share) = client.share.filter(|s| !(s.is_finite() && *s > 0.0)) {
            missing.push(wrong(&of("share"), format!("must be a number above 0, not {share}")));
        }
    }
    if !clients.is_empty() {
        for (given, path) in [
            (settings.chains.is_some(), "chains"),
            (!settings.models.is_empty(), "models"),
            (settings.adapters.is_some(), "adapters"),
        ] {
            if given {
                let message = format!("`{path}` cannot be there together with `clients`");
                let help = "a client has one `model` and one `adapter`; agents are a stage of their own";
                let at = place(tree, path).cloned();
                missing.push(Diagnostic::new("synthesize::value", message).at(at).help(help));
            }
        }
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    let base = base(settings);
    if clients.is_empty() {
        return Ok(Workload::One(Box::new(base)));
    }
    let shares: f64 = clients.values().filter(|c| !has_rate(c, settings)).map(|c| c.share.unwrap_or(1.0)).sum();
    let clients = clients.iter().map(|(name, client)| of_client(name, client, settings, &base, shares)).collect();
    Ok(Workload::Many(Clients { clients, requests: settings.requests, duration_s: settings.duration_s }))
}

fn closed(client: &SynthClient, settings: &SynthesizeSettings) -> bool {
    let arrivals = client.arrivals.as_ref().unwrap_or(&settings.arrivals);
    matches!(arrivals, workload::ArrivalProcess::ClosedLoop(_))
}

fn has_rate(client: &SynthClient, settings: &SynthesizeSettings) -> bool {
    client.rate_rps.is_some() || client.rate_schedule.is_some() || closed(client, settings)
}

/// What the stage says of all requests.
fn base(settings: &SynthesizeSettings) -> Synthetic {
    let SynthesizeSettings {
        requests,
        duration_s,
        rate_rps,
        arrivals,
        rate_schedule,
        diurnal,
        spikes,
        input,
        output,
        correlation,
        joint,
        system_prompt,
        shared_prefix,
        prefix_tree,
        prefix_groups,
        block_tokens,
        sessions,
        chains,
        models,
        adapters,
        images,
        audio,
        video,
        reasoning,
        clients: _,
        spec: _,
        preset: _,
        servegen: _,
        from: _,
        fit: _,
    } = settings.clone();
    Synthetic {
        requests,
        duration_s,
        rate_rps,
        arrivals,
        rate_schedule,
        diurnal,
        spikes,
        active: Vec::new(),
        starts: None,
        input: input.unwrap_or_else(unused),
        output: output.unwrap_or_else(unused),
        correlation,
        joint,
        system_prompt,
        shared_prefix,
        prefix_tree,
        prefix_groups,
        block_tokens,
        sessions,
        chains: chains.as_ref().map(of_kernel),
        models,
        adapters,
        images,
        audio,
        video,
        reasoning,
    }
}

fn of_client(
    name: &Text,
    client: &SynthClient,
    settings: &SynthesizeSettings,
    base: &Synthetic,
    shares: f64,
) -> Client {
    let own_rate = has_rate(client, settings);
    let SynthClient {
        share,
        rate_rps,
        tenant,
        class,
        model,
        adapter,
        priority,
        deadline_ms,
        timeout_s,
        active,
        arrivals,
        rate_schedule,
        diurnal,
        spikes,
        input,
        output,
        correlation,
        joint,
        system_prompt,
        shared_prefix,
        prefix_tree,
        prefix_groups,
        sessions,
        images,
        audio,
        video,
        reasoning,
    } = client.clone();
    let mut body = base.clone();
    if own_rate {
        (body.rate_rps, body.rate_schedule) = (rate_rps, rate_schedule);
    } else {
        let part = share.unwrap_or(1.0) / shares;
        body.rate_rps = body.rate_rps.map(|rate| rate * part);
        body.rate_schedule = body.rate_schedule.map(|s| scaled(s, part));
    }
    // Lengths of its own go before those that the stage draws together.
    if input.is_some() || output.is_some() {
        body.joint = None;
    }
    if prefix_groups.is_some() || prefix_tree.is_some() || shared_prefix.is_some() {
        (body.shared_prefix, body.prefix_tree, body.prefix_groups) = (None, None, Vec::new());
    }
    body.active = active;
    body.arrivals = arrivals.unwrap_or(body.arrivals);
    body.diurnal = diurnal.or(body.diurnal);
    body.spikes = spikes.unwrap_or(body.spikes);
    body.input = input.unwrap_or(body.input);
    body.output = output.unwrap_or(body.output);
    body.correlation = correlation.unwrap_or(body.correlation);
    body.joint = joint.or(body.joint);
    body.system_prompt = system_prompt.or(body.system_prompt);
    body.shared_prefix = shared_prefix.or(body.shared_prefix);
    body.prefix_tree = prefix_tree.or(body.prefix_tree);
    body.prefix_groups = prefix_groups.unwrap_or(body.prefix_groups);
    body.sessions = sessions.or(body.sessions);
    body.images = images.or(body.images);
    body.audio = audio.or(body.audio);
    body.video = video.or(body.video);
    body.reasoning = reasoning.or(body.reasoning);
    Client {
        name: name.value.clone(),
        tenant,
        class,
        model,
        adapter,
        priority,
        deadline_s: deadline_ms.map(|ms| ms / 1e3),
        timeout_s,
        body: Body::Alike(Box::new(body)),
    }
}

/// A schedule of rates so many times as high.
pub(super) fn scaled(mut schedule: RateSchedule, factor: f64) -> RateSchedule {
    for piece in &mut schedule.pieces {
        piece.rate_rps *= factor;
        piece.to_rps = piece.to_rps.map(|rate| rate * factor);
    }
    schedule
}

/// Everything that is wrong with a workload of the stage's own settings, each at its place.
pub(super) fn problems(workload: &Workload, stage: &Synthesize) -> Vec<Diagnostic> {
    let at = stage.tree.at.as_ref();
    match workload {
        Workload::One(one) => one.problems().iter().map(|p| diagnostic(p, stage, at)).collect(),
        Workload::Many(many) => {
            let named = |p: Problem| {
                // Of clients the user knows the names.
                let Some((number, field)) = p.path.strip_prefix("clients.").and_then(|rest| rest.split_once('.'))
                else {
                    return diagnostic(&p, stage, at);
                };
                let client = number.parse().ok().and_then(|i: usize| stage.value.clients.get_index(i));
                let path = match client {
                    Some((name, _)) => format!("clients.{}.{field}", name.value),
                    None => p.path.clone(),
                };
                // What a client does not say itself stands at the stage.
                let own = client.and_then(|(name, _)| stage.tree.get_path("clients")?.get_path(&name.value));
                let first = field.split('.').next().unwrap_or(field);
                let own = own.filter(|client| client.get_path(first).is_some());
                let place = own.map_or_else(|| place(&stage.tree, field), |client| client.nearest(field));
                let place = if stage.tree.get_path(first).is_none() && own.is_none() {
                    client.and_then(|(name, _)| name.at.as_ref())
                } else {
                    place
                };
                Diagnostic::new("synthesize::value", format!("`{path}` {}", p.message)).at(place.or(at).cloned())
            };
            let mut found: Vec<Diagnostic> = Vec::new();
            for problem in many.problems().into_iter().map(named) {
                // What all clients have from the stage is wrong once.
                if !found.iter().any(|f| f.at == problem.at && tail(&f.message) == tail(&problem.message)) {
                    found.push(problem);
                }
            }
            found
        }
    }
}

/// A message without the path that it begins with.
fn tail(message: &str) -> &str {
    message.split_once("` ").map_or(message, |(_, rest)| rest)
}

/// Where a path was written, or the settings as a whole.
pub(super) fn place<'a>(tree: &'a Tree, path: &str) -> Option<&'a Span> {
    tree.nearest(path)
}

/// A problem at its place: of steps of agents, at the step, or the name in its `after`, that it is about.
fn diagnostic(problem: &Problem, stage: &Synthesize, at: Option<&Span>) -> Diagnostic {
    let message = format!("`{}` {}", problem.path, problem.message);
    let steps = stage.value.chains.as_ref().map(|c| &c.steps);
    let named = problem.path.strip_prefix("chains.steps.").zip(steps);
    let found = named.and_then(|(path, steps)| {
        // A name that is none may have dots itself.
        let of = |key: &Text| path.strip_prefix(&key.value).filter(|rest| rest.is_empty() || rest.starts_with('.'));
        steps.iter().find_map(|(key, step)| Some((key, step, of(key)?)))
    });
    let Some((key, step, field)) = found else {
        let at = place(&stage.tree, &problem.path).or(at);
        return Diagnostic::new("synthesize::value", message).at(at.cloned());
    };
    let entry = field.strip_prefix(".after.").and_then(|i| step.after.get(i.parse::<usize>().ok()?));
    let Some(entry) = entry else {
        return Diagnostic::new("synthesize::value", message).at(key.at.clone().or(at.cloned()));
    };
    let found = Diagnostic::new("synthesize::order", message).at(entry.at.clone().or(key.at.clone()));
    let names = || steps.into_iter().flat_map(|s| s.keys()).map(|k| k.value.as_str());
    if step.after.iter().filter(|a| **a == *entry).count() > 1 {
        return found.help("once is enough");
    }
    if names().any(|name| name == entry.value) {
        return found.help("a step can only wait for steps that do not wait for it");
    }
    let all = names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    found.help(match nearest(&entry.value, names()) {
        Some(near) => format!("did you mean `{near}`? the steps are {all}"),
        None => format!("the steps are {all}"),
    })
}

/// The steps without their places.
pub(super) fn of_kernel(chains: &spec::Chains) -> workload::Chains {
    let spec::Chains { steps, max_context, turn_s } = chains;
    let step = |(name, step): (&Text, &ChainStep)| {
        let ChainStep { after, input, output, tool_time, context } = step;
        workload::ChainStep {
            name: name.value.clone(),
            after: after.iter().map(|a| a.value.clone()).collect(),
            input: input.clone(),
            output: output.clone(),
            tool_time: *tool_time,
            context: *context,
        }
    };
    workload::Chains { steps: steps.iter().map(step).collect(), max_context: *max_context, turn_s: *turn_s }
}
