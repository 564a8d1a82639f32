//! What the project began with, run as it stands there: the commands of its examples and its Python class.
//!
//! Two places of the seed cannot run as printed, whatever Quilt does:
//! 1. `--memory 2048 \      # 2GB for ML workloads`: a comment after a line continuation ends the command there, and
//!    `--cpu 100.0` is then a command of its own. Without the comments it runs (`without_the_comments`).
//! 2. `--health-check "curl -s http://localhost:8080/health"` on a container in which nothing starts a web server:
//!    it fails, and has to (`a_check_against_a_server_that_nothing_starts`).

use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::harness::{Out, World, images, repo, skip};

/// A world with `./cli`, and `cli` on the path, in a directory with the images that the seed names.
struct Seed(World);

impl Seed {
    fn new(test: &str) -> Option<Seed> {
        let image = images::debian().map_err(|why| skip(test, &why)).ok()?;
        let world = World::new("seed");
        for name in ["image.tar.gz", "agent-image.tar.gz", "agent.tar.gz"] {
            symlink(&image, world.path(name)).unwrap();
        }
        symlink(repo().join("scripts/cli"), world.path("cli")).unwrap();
        Some(Seed(world))
    }

    /// Runs shell text in that directory.
    fn sh(&self, text: &str) -> Out {
        let path = format!("{}:{}", self.0.dir.display(), std::env::var("PATH").unwrap());
        self.0.run("sh", &["-c", text]).dir(&self.0.dir).env("PATH", path).go()
    }
}

#[test]
fn the_examples() {
    let Some(seed) = Seed::new("the_examples") else { return };
    let create = r#"
./cli create-production ./image.tar.gz \
    --name "agent-worker-1" \
    --memory 512 \
    --cpu 50.0 \
    --health-check "echo agent_ready"
"#;
    let out = seed.sh(create).ok();
    assert_eq!(out.stdout.split_whitespace().last(), Some("agent-worker-1"), "{out:?}");
    let files = "for f in run_agent_task process_data generate_report; do \
        echo 'import sys; print(sys.argv)' | ./cli exec -i agent-worker-1 sh -c \"cat >/$f.py\"; done";
    seed.sh(files).ok();
    let tasks = r#"
CONTAINER_ID=agent-worker-1
./cli icc exec $CONTAINER_ID python run_agent_task.py --task-id 12345
./cli icc exec $CONTAINER_ID python process_data.py --input /data/batch1.json
./cli icc exec $CONTAINER_ID python generate_report.py --output /results/
"#;
    let printed = "['run_agent_task.py', '--task-id', '12345']\n['process_data.py', '--input', '/data/batch1.json']\n\
        ['generate_report.py', '--output', '/results/']\n";
    seed.sh(tasks).is(0, printed, "");
    let health = seed.sh("CONTAINER_ID=agent-worker-1\n./cli health-check $CONTAINER_ID\n").ok();
    assert_eq!(health.record()["probe"]["have"]["ready"], true);
    let listed = seed.sh("# Monitor all production containers\n./cli list-production\n").ok().objects();
    assert_eq!(listed.iter().map(|c| c["id"].clone()).collect::<Vec<Value>>(), ["agent-worker-1"]);
    let monitor = "CONTAINER_ID=agent-worker-1\nwhile true; do\n    ./cli health-check $CONTAINER_ID\n    break # sleep 30\ndone\n";
    seed.sh(monitor).ok();
    seed.sh("./cli terminate agent-worker-1").ok();
    seed.sh("./cli list-production").is(0, "", "");
}

#[test]
fn the_agent_container_manager() {
    let Some(seed) = Seed::new("the_agent_container_manager") else { return };
    // The class is the seed's, to the letter.
    let class = r#"
# Agent framework integration
class AgentContainerManager:
    def create_worker(self, agent_id: str) -> str:
        container_id = subprocess.check_output([
            "cli", "create-production", "./agent-image.tar.gz",
            "--name", f"agent-{agent_id}",
            "--memory", "512", 
            "--cpu", "50.0",
            "--health-check", "python -c 'print(\"ready\")'",
            "--env", f"AGENT_ID={agent_id}"
        ]).decode().strip().split()[-1]
        
        return container_id
    
    def execute_task(self, container_id: str, command: list) -> str:
        result = subprocess.check_output([
            "cli", "icc", "exec", container_id
        ] + command)
        return result.decode()
"#;
    let script = format!(
        "import subprocess\n{class}
manager = AgentContainerManager()
workers = [manager.create_worker(str(n)) for n in (1, 2)]
print(workers)
for worker in workers:
    print(repr(manager.execute_task(worker, ['python', '-c', 'import os; print(os.environ[\"AGENT_ID\"])'])))
"
    );
    seed.0.write("manager.py", &script);
    seed.sh("python3 manager.py").is(0, "['agent-1', 'agent-2']\n'1\\n'\n'2\\n'\n", "");
    seed.sh("cli rm -f agent-1 agent-2").ok();
}

#[test]
fn without_the_comments() {
    let Some(seed) = Seed::new("without_the_comments") else { return };
    let create =
        "./cli create-production ./agent.tar.gz \\\n    --memory 2048 \\\n    --cpu 100.0 \\\n    --timeout 30000\n";
    let out = seed.sh(create).ok();
    let id = out.stdout.split_whitespace().last().unwrap().to_owned();
    let record = seed.sh(&format!("./cli inspect {id}")).ok().record();
    assert_eq!(record["cgroup"]["want"], serde_json::json!({"memory": "2GiB", "cpu": 100.0}));
    assert_eq!(record["probe"]["want"]["timeout"], "30s");
    seed.sh(&format!("./cli terminate {id}")).ok();
}

#[test]
fn a_check_against_a_server_that_nothing_starts() {
    let Some(seed) = Seed::new("a_check_against_a_server_that_nothing_starts") else { return };
    let create = r#"
./cli create-production ./agent-image.tar.gz \
    --name "agent-worker-001" \
    --memory 1024 \
    --cpu 75.0 \
    --timeout 15000 \
    --health-check "curl -s http://localhost:8080/health" \
    --env "AGENT_ID=worker-001" \
    --env "LOG_LEVEL=info"
"#;
    let out = seed.sh(create);
    assert!(out.status == 19 && out.stderr.lines().count() == 1 && out.stderr.contains("health"), "{out:?}");
    seed.sh("./cli list-production").is(0, "", "");
}
