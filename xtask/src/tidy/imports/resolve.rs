//! Paths, followed through re-exports to the files that define what they name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::source::{NamedPath, Source};

/// All modules of one crate.
#[derive(Default)]
pub(super) struct Modules {
    modules: Vec<Module>,
    /// Relative to the crate's `src`.
    pub(super) files: Vec<PathBuf>,
}

struct Module {
    /// Index of the file that it is written in.
    file: usize,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    source: Source,
}

/// One path in a file that leads out of it.
pub(super) struct Use {
    /// Index of the file.
    pub(super) file: usize,
    pub(super) of: Of,
    pub(super) path: NamedPath,
}

/// The place of a definition.
pub(super) enum Of {
    /// In a file of the crate, by its index.
    File(usize),
    /// Elsewhere: a path that begins with a crate's name, or with that of a type that every file knows.
    Outside(String),
}

impl Module {
    /// Paths of two names or more that the code says or means.
    fn paths(&self) -> Vec<NamedPath> {
        let source = &self.source;
        let mut paths = source.paths.clone();
        for import in &source.imports {
            match &import.name {
                Some(name) if import.is_public && !source.names.contains(name) => {}
                Some(_) => paths.push(import.path.clone()),
                // What it brings is used where a name is not explained otherwise.
                None => paths.extend(source.unexplained().map(|name| NamedPath {
                    names: vec!["self".to_owned(), name.clone()],
                    line: import.path.line,
                })),
            }
        }
        paths
    }
}

/// The end of a path.
#[derive(Clone, Copy)]
enum Target {
    Module(usize),
    /// An item, by the file that defines it.
    Item {
        file: usize,
    },
}

impl Modules {
    /// The modules of the crate whose root is `file`, a path below `src`.
    pub(super) fn read(src: &Path, root: &Path) -> Result<Self> {
        let mut modules = Modules::default();
        modules.add_file(src, root, Path::new(""), None)?;
        Ok(modules)
    }

    fn add_file(
        &mut self,
        src: &Path,
        file: &Path,
        folder: &Path,
        parent: Option<usize>,
    ) -> Result<usize> {
        let path = src.join(file);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        // What is not Rust is said elsewhere.
        let source = Source::parse(&text).unwrap_or_default();
        self.files.push(file.to_owned());
        self.add_module(src, source, self.files.len() - 1, folder, parent)
    }

    fn add_module(
        &mut self,
        src: &Path,
        mut source: Source,
        file: usize,
        folder: &Path,
        parent: Option<usize>,
    ) -> Result<usize> {
        let children = std::mem::take(&mut source.children);
        let idx = self.modules.len();
        self.modules.push(Module {
            file,
            parent,
            children: BTreeMap::new(),
            source,
        });
        for (name, body) in children {
            let folder = folder.join(&name);
            let child = match body {
                Some(source) => self.add_module(src, source, file, &folder, Some(idx))?,
                None => self.add_file(src, &folder.with_extension("rs"), &folder, Some(idx))?,
            };
            self.modules[idx].children.insert(name, child);
        }
        Ok(idx)
    }

    /// Uses of other files, first by file, then by line. A re-export is none, and neither is the import of a module: what
    /// is named of it is.
    pub(super) fn uses(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        for (idx, module) in self.modules.iter().enumerate() {
            for path in module.paths() {
                let of = match self.resolve(idx, &path.names, 0) {
                    Some(Target::Item { file }) if file != module.file => Of::File(file),
                    Some(Target::Item { .. } | Target::Module(_)) => continue,
                    None => Of::Outside(path.names[0].clone()),
                };
                uses.push(Use {
                    file: module.file,
                    of,
                    path,
                });
            }
        }
        uses.sort_by_key(|used| (used.file, used.path.line));
        uses
    }

    /// The end of a path that begins in a module; `None` where it leads out of the crate.
    fn resolve(&self, from: usize, path: &[String], depth: usize) -> Option<Target> {
        let mut at = match path[0].as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(from),
            "super" => Target::Module(self.modules[from].parent?),
            name => self.find(from, name, path.len() > 1, depth)?,
        };
        for (idx, name) in path.iter().enumerate().skip(1) {
            let Target::Module(module) = at else {
                // A variant, a constant or a function of the item.
                return Some(at);
            };
            let is_last = idx + 1 == path.len();
            at = match name.as_str() {
                "super" => Target::Module(self.modules[module].parent?),
                // What a macro defines is not seen.
                name => self
                    .find(module, name, !is_last, depth)
                    .unwrap_or(Target::Item {
                        file: self.modules[module].file,
                    }),
            };
        }
        Some(at)
    }

    /// The target of a `name` in a module.
    fn find(&self, module: usize, name: &str, is_module: bool, depth: usize) -> Option<Target> {
        // Imports may go round in circles where they name each other.
        if depth > MAX_DEPTH {
            return None;
        }
        let Module {
            file,
            children,
            source,
            ..
        } = &self.modules[module];
        let child = children.get(name).map(|child| Target::Module(*child));
        if child.is_some() && is_module {
            return child;
        }
        if source.items.contains(name) {
            return Some(Target::Item { file: *file });
        }
        let mut imports = source.imports.iter();
        let named = imports.find(|import| import.name.as_deref() == Some(name));
        let found = child.or_else(|| self.resolve(module, &named?.path.names, depth + 1));
        found.or_else(|| {
            let globs = source.imports.iter().filter(|import| import.name.is_none());
            let mut found = globs.filter_map(|glob| {
                match self.resolve(module, &glob.path.names, depth + 1)? {
                    Target::Module(from) if from != module => {
                        self.find(from, name, is_module, depth + 1)
                    }
                    Target::Module(_) | Target::Item { .. } => None,
                }
            });
            found.next()
        })
    }
}

const MAX_DEPTH: usize = 16;
