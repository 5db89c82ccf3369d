//! Profiles that latency models read: which tables a stage names, and how they come to its scenarios.

use std::collections::BTreeMap;
use std::sync::Arc;

use pipe_kernel::pools::Site;
use pipe_kernel::profile::{Profile, Supplied};
use pipe_kernel::scenario::Scenario;
use pipe_kernel::sim::latency::{self, Latency, Operators};

use crate::diag::{Diagnostic, Failure, Result};
use crate::spec::{Simulate, Text, Tree, TreeValue};
use crate::stage::RunCx;
use crate::stage::profile::load::load;

/// Settings of a latency model that name a profile.
const NAMED: [&str; 3] = ["latency.operators.profile", "latency.steps.profile", "latency.auto.profile"];

/// Every profile that the deployment or the sweep of a stage names, once.
pub(crate) fn named(spec: &Simulate) -> Vec<Text> {
    let mut found: Vec<Text> = Vec::new();
    collect("deployment", &spec.deployment, &mut found);
    if let Some(sweep) = &spec.sweep {
        let grid = sweep.grid.iter().chain(&sweep.zip).flat_map(|(path, values)| values.iter().map(move |v| (path, v)));
        let list = sweep.list.iter().flatten();
        grid.chain(list).for_each(|(path, value)| collect(&path.value, value, &mut found));
    }
    found
}

/// What stands under a path of a scenario.
pub(crate) fn collect(path: &str, tree: &Tree, found: &mut Vec<Text>) {
    match &tree.value {
        TreeValue::Map(entries) => {
            entries.iter().for_each(|(key, value)| collect(&format!("{path}.{}", key.value), value, found));
        }
        TreeValue::String(name) if NAMED.iter().any(|end| path.ends_with(end)) => {
            if !found.iter().any(|known| known.value == *name) {
                found.push(Text::new(name.clone(), tree.at.clone()));
            }
        }
        TreeValue::String(_)
        | TreeValue::Null
        | TreeValue::Bool(_)
        | TreeValue::Int(_)
        | TreeValue::Float(_)
        | TreeValue::List(_) => {}
    }
}

/// Profiles by the name of their stage.
#[derive(Clone, Debug, Default)]
pub(crate) struct Profiles(BTreeMap<String, Arc<Profile>>);

impl Profiles {
    /// Reads them, once for all scenarios.
    ///
    /// # Errors
    /// A table that is no profile, at the place where it is named.
    pub(crate) async fn read(names: &[Text], cx: &RunCx) -> Result<Profiles> {
        let mut profiles = BTreeMap::new();
        for name in names {
            let missing = || Failure::stage("simulate::profile", format!("there is no table `{}`", name.value));
            let handle = cx.inputs.get(&name.value).ok_or_else(missing)?;
            let profile = load(handle).await.map_err(|failure| failure.or_at(name.at.as_ref()))?;
            profiles.insert(name.value.clone(), profile);
        }
        Ok(Profiles(profiles))
    }

    /// The profile of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Profile> {
        self.0.get(name).map(|profile| &**profile)
    }

    /// Gives the deployment of a scenario, or each of its pools, the profile that its latency model names. `auto` takes its
    /// profile where that covers model and parallelism.
    pub(crate) fn attach(&self, scenario: &mut Scenario) {
        if self.0.is_empty() {
            return;
        }
        let supplied: Vec<Supplied> = scenario.sites().into_iter().map(|site| self.supplied(site)).collect();
        if scenario.deployment.pools.is_empty() {
            scenario.supplied = supplied.into_iter().next().unwrap_or_default();
        } else {
            scenario.pools.iter_mut().zip(supplied).for_each(|(pool, supplied)| pool.supplied = supplied);
        }
    }

    /// Gives back to a scenario that was read from text the profiles that it had.
    pub(crate) fn restore(&self, scenario: &mut Scenario) {
        if self.0.is_empty() {
            return;
        }
        let profile = |site: &Site| {
            let latency = site.supplied.latency.as_ref().unwrap_or(&site.deployment.latency);
            latency.profile().and_then(|name| self.0.get(name)).cloned()
        };
        let found: Vec<Option<Arc<Profile>>> = scenario.sites().iter().map(profile).collect();
        match scenario.deployment.pools.is_empty() {
            true => scenario.supplied.profile = found.into_iter().next().flatten(),
            false => scenario.pools.iter_mut().zip(found).for_each(|(pool, profile)| pool.supplied.profile = profile),
        }
    }

    /// Whether every pool of a scenario has a profile that covers it, where it needs one; `true` as long as none are read.
    pub(crate) fn fit(&self, scenario: &Scenario) -> bool {
        self.0.is_empty() || pipe_kernel::sim::check_profiles(scenario).is_ok()
    }

    fn supplied(&self, mut site: Site) -> Supplied {
        let latency = &site.deployment.latency;
        let Some((name, profile)) = latency.profile().and_then(|name| self.0.get_key_value(name)) else {
            return site.supplied;
        };
        let profile = Some(profile.clone());
        if !matches!(latency, Latency::Auto(_)) {
            return Supplied { profile, ..site.supplied };
        }
        let without = site.supplied;
        site.supplied = Supplied { latency: Some(Latency::Operators(Operators::of(name))), picked: None, profile };
        if latency::fits(&site) { site.supplied } else { without }
    }
}

/// The tables must be profiles, as far as their columns are known.
pub(crate) fn check(names: &[Text], cx: &crate::stage::CheckCx) -> Vec<Diagnostic> {
    let wrong = |name: &&Text| {
        let schema = cx.tables.get(&name.value).and_then(|t| t.schema.as_ref());
        schema.is_some_and(|s| {
            crate::table::profile::schema().fields().iter().any(|f| s.field_with_name(f.name()).is_err())
        })
    };
    let told = |name: &Text| {
        let message = format!("`{}` is no profile", name.value);
        Diagnostic::new("simulate::profile", message).at(name.at.clone()).help("name a stage of kind `profile`")
    };
    names.iter().filter(wrong).map(told).collect()
}
