# The application of the demo: four real workers below a supervisor. It prints when they are up
# and what the sweep at its start found. It runs until it is killed.
#
#     mix run --no-halt examples/demo/pool.exs LOG WORKER…

[log | names] = System.argv()
workers = Path.join(__DIR__, "workers")

command = fn
  "embedder" -> [command: "python3", args: ["-u", Path.join(workers, "embedder.py")]]
  "pipeline" -> [shell: Path.join(workers, "pipeline.sh")]
  "daemon" -> [command: Path.join(workers, "daemon.sh")]
  "stubborn" -> [command: Path.join(workers, "stubborn.sh")]
end

children =
  for name <- names do
    # Every process of a tree inherits the file on stderr. The demo counts by it from outside.
    options =
      command.(name) ++
        [
          ready: ~r/READY/,
          on_output: fn _stream, _output -> :ok end,
          stderr: {:file, log},
          stop: [sigterm: 500]
        ]

    Supervisor.child_spec({Leash.Worker, options}, id: name)
  end

{:ok, _supervisor} = Supervisor.start_link(children, strategy: :one_for_one)
shim = Application.app_dir(:leash, "priv/leash-shim")
IO.puts("UP #{System.pid()} #{Leash.run_id()} #{shim}")

# On a line on stdin, it prints what a sweep would do now, and does nothing.
for "report\n" <- IO.stream(:stdio, :line) do
  {:ok, report} = Leash.sweep(mode: :report)

  for run <- report.runs, run.verdict != :own do
    IO.puts("REPORT run #{run.run_id}: #{run.verdict} (#{inspect(run.why)})")
  end

  for match <- report.matches, match.verdict == :dead do
    carriers = Enum.map_join(match.carriers, ", ", &to_string/1)
    IO.puts("REPORT   #{match.pid} by #{carriers}: #{match.command}")
  end

  IO.puts("REPORTED")
end
