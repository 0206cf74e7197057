defmodule Leash.Faults.CopiedEnvironmentTest do
  @moduledoc """
  FAULTS 98: other services' daemons start jobs with a copy of a worker's environment. Such a job
  is no descendant, and lives.
  """

  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.{JobDaemon, Narrow}

  @group "jobs"
  @ends ~w(stop exits stop_all worker_killed shim_killed crash)

  for {user, needs} <- [root: :root, nobody: :public_python] do
    @user user
    @tag needs: needs
    test "98, #{user}: jobs of a service live whatever ends the worker that handed them over" do
      %{vm: vm, jobs: jobs} = run = start(@user, @ends)
      workers = VM.eval(vm, "for w <- Leash.list(), do: {w.name, {w.os_pid, w.shim_pid}}")
      identity = fn name, index -> Observer.identity(elem(workers[name], index)) end

      assert {:ok, _exit} = VM.eval(vm, "Leash.Worker.stop(:stop)")
      Observer.signal(identity.(:exits, 0), "KILL")
      assert {:ok, [_one]} = VM.eval(vm, "Leash.stop_all(#{inspect(@group)})")
      VM.eval(vm, "Process.exit(Process.whereis(:worker_killed), :kill)")
      Observer.signal(identity.(:shim_killed, 1), "KILL")

      # Their numbers are free again, so every look for what they left is over.
      assert_eventually(fn -> numbers(vm) == 1 end, 10_000)
      assert Decoys.harmed(jobs) == []

      kill_all(vm)
      matches = Enum.filter(next_start(run).matches, &(&1.run_id == vm.run_id))
      kept = for match <- matches, match.action == :kept, do: match.verdict
      assert kept == List.duplicate(:env_only, length(jobs))
      assert Decoys.harmed(jobs) == []
    end

    @tag needs: needs
    test "98, #{user}: jobs of a service live when the application stops, and when the VM ends" do
      %{vm: vm, jobs: jobs} = run = start(@user, ["app_stop"])
      assert VM.ask(vm, "app_stop") == ":ok"
      assert Decoys.harmed(jobs) == []
      VM.stop(vm)
      next_start(run)
      assert Decoys.harmed(jobs) == []
    end
  end

  @tag needs: :at
  test "98: a job of at outlives its worker's shim, and the next start after a crash" do
    log = Decoy.log_path()
    JobDaemon.start_atd()
    job = "echo $$ >#{log}.pid; exec #{decoy(log)}"
    submit = "printf '%s\\n' #{Python.quote_all([job])} | at now 2>/dev/null; "
    vm = start_vm([{"at", sh(submit <> "echo ready $$; exec sleep 600")}])
    lives(vm, JobDaemon.job(log))
  end

  @tag needs: :pm2
  test "98: an app of pm2 outlives its worker's shim, and the next start after a crash" do
    {pm2, home} = JobDaemon.start_pm2(tmp_dir!())
    log = Decoy.log_path()
    [python | args] = Python.argv("decoy.py", [log, "600"])
    words = [pm2, "start", python, "--name", "job", "--interpreter", "none", "--" | args]
    line = Python.quote_all(words) <> " >/dev/null; echo ready $$; exec sleep 600"
    vm = start_vm([{"pm2", [env: home] ++ sh(line)}])
    {pid, 0} = System.cmd(pm2, ["pid", "job"], env: home)
    File.write!(log <> ".pid", pid)
    lives(vm, JobDaemon.job(log))
  end

  test "98: a shell of a kept tmux server that has lost its mark lives, and so does the server" do
    log = Decoy.log_path()
    tmux = ["-S", Path.join(tmp_dir!(), "tmux")]
    on_exit(fn -> System.cmd("tmux", tmux ++ ["kill-server"], stderr_to_stdout: true) end)
    server = inspect(tmux ++ ["new-session", "-d", "sh"])
    vm = start_vm([{"other", sh("echo ready $$; exec sleep 600")}])
    assert {"", 0} = VM.eval(vm, ~s|Leash.cmd("tmux", #{server}, on_exit: :keep)|)

    line = "echo $$ >#{log}.pid; exec prlimit --locks=1:1 #{decoy(log)}"
    {_, 0} = System.cmd("tmux", tmux ++ ["new-window", line])
    job = JobDaemon.job(log)
    assert Tag.marked_run(elem(job.identity, 0)) == nil
    lives(vm, job)
    assert {_, 0} = System.cmd("tmux", tmux ++ ["list-windows"])
  end

  ## Parts

  # Workers of these names, each of which hands two jobs to a service of the same user.
  defp start(user, names) do
    dir = tmp_dir!()
    daemon = JobDaemon.start(python(user), prefix(user))
    logs = Map.new(names, &{&1, JobDaemon.logs()})
    all_logs = logs |> Map.values() |> Enum.concat()
    Enum.each(all_logs, &File.touch!/1)
    if user == :nobody, do: Enum.each([dir | all_logs], &File.chown!(&1, Narrow.nobody()))

    workers =
      for name <- names do
        [command | args] = JobDaemon.client(daemon, logs[name])
        group = if name == "stop_all", do: [group: @group], else: []
        {name, [command: command, args: args, name: String.to_atom(name)] ++ group}
      end

    run = %{dir: dir, user: user}
    vm = start_vm(workers, options(run))
    jobs = JobDaemon.jobs(all_logs)
    on_exit(fn -> JobDaemon.stop(daemon, jobs) end)
    for job <- jobs, do: assert_copied(job, vm)
    Map.merge(run, %{vm: vm, jobs: jobs})
  end

  defp options(%{dir: dir, user: user}),
    do: [run_dir: dir, prefix: prefix(user), os_env: %{"HOME" => "/tmp"}]

  defp python(:root), do: Python.path()
  defp python(:nobody), do: Python.public()

  defp prefix(:root), do: ""
  defp prefix(:nobody), do: Narrow.as_nobody()

  defp next_start(run) do
    next = start_vm([], options(run))
    report = VM.eval(next, "Leash.Sweep.last()")
    VM.stop(next)
    report
  end

  defp numbers(vm), do: VM.eval(vm, "length(Leash.Registry.all())")
  defp sh(line), do: [command: "sh", args: ["-c", line], stop: [sigterm: 300]]
  defp decoy(log), do: Python.quote_all(Python.argv("decoy.py", [log, "600"]))

  defp assert_copied(%{identity: {pid, _ticks}}, vm),
    do: assert(File.read!("/proc/#{pid}/environ") =~ "LEASH_RUN=#{vm.run_id}.")

  defp lives(vm, job) do
    on_exit(fn -> Decoy.stop(job) end)
    assert_copied(job, vm)
    [{_label, %{shim: shim}}] = Map.to_list(vm.workers)
    Observer.signal(shim, "KILL")
    assert_eventually(fn -> numbers(vm) == 0 end, 10_000)
    assert_unharmed(job)
    kill_all(vm)
    VM.stop(start_vm([]))
    assert_unharmed(job)
  end
end
