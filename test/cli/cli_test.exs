defmodule Leash.CliTest do
  # Serial: sweeps look at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.{Cli, Decoys}

  @moduletag timeout: 120_000

  @moduletag needs: :cli

  setup do
    {:ok, dir: tmp_dir!()}
  end

  defp leash, do: Cli.path()

  defp cli(dir, args), do: Cli.run(dir, args)

  # Returns the rows of a table as maps from title to text. The last column takes the rest of the
  # line.
  defp table(output) do
    [titles | rows] = String.split(output, "\n", trim: true)
    titles = String.split(titles)

    for row <- rows,
        fields = row |> String.trim() |> String.split(~r/ {2,}/, parts: length(titles)),
        do: titles |> Enum.zip(fields) |> Map.new()
  end

  defp row(output, title, value),
    do: output |> table() |> Enum.find(&(&1[title] == to_string(value)))

  defp pid({pid, _ticks}), do: pid

  # A worker with a child, and a daemon that has left the group.
  @family ~s|setsid sh -c 'echo ready $$; exec sleep 90' & sleep 91 & wait|

  defp family(options \\ []),
    do: [{"w", [command: "sh", args: ["-c", @family], stop: [sigterm: 500]] ++ options}]

  # Without the sweep at the start, which would leave the command nothing to do.
  defp live(dir, workers \\ family()),
    do: start_vm(workers, run_dir: dir, env: [sweep: false, app: "shop"])

  defp crashed(dir, workers \\ family()) do
    vm = live(dir, workers)
    :ok = kill_all(vm)
    for orphan <- vm.trees["w"], do: assert(Observer.alive?(orphan))
    vm
  end

  defp record(dir, vm), do: Path.join(dir, vm.run_id <> ".json")

  describe "looking" do
    test "ps, tree and runs show a live run", %{dir: dir} do
      vm = live(dir)
      %{os: os, shim: shim} = vm.workers["w"]
      [daemon] = vm.trees["w"]
      # The program reports that it is there before it executes the next program.
      assert_eventually(fn -> Observer.argv(pid(daemon)) == ["sleep", "90"] end)

      {output, 0} = cli(dir, ["ps"])
      id = vm.run_id
      owner = to_string(pid(vm.identity))
      parent = to_string(pid(shim))

      assert %{
               "RUN" => ^id,
               "IS" => "live",
               "WORKER" => "1",
               "OWNER" => ^owner,
               "PPID" => ^parent
             } = row(output, "PID", pid(os))

      assert %{"COMMAND" => "sleep 90", "RSS" => rss} = row(output, "PID", pid(daemon))
      assert rss =~ ~r/^\d+[KM]$/
      assert row(output, "PID", pid(shim)) == nil

      {output, 0} = cli(dir, ["ps", "--shims"])
      assert %{"PPID" => _, "RUN" => ^id} = row(output, "PID", pid(shim))

      {output, 0} = cli(dir, ["tree", id])
      [head, warden, first, second | _rest] = String.split(output, "\n")

      assert head =~
               ~r/^#{id} alive  owner #{owner}, app shop, node nonode@nohost, since .*, 3 processes$/

      assert [{keeper, _ticks}] = VM.wardens(vm)
      assert warden =~ ~r/^└─ #{keeper} [SR] warden$/u
      assert first =~ ~r/^   └─ #{pid(shim)} [SR] shim of worker 1$/u
      assert second =~ ~r/^      [├└]─ #{pid(os)} S \[1, live, /u

      {output, 0} = cli(dir, ["runs"])

      assert %{"IS" => "alive", "OWNER" => ^owner, "PROCESSES" => "3", "SINCE" => since} =
               row(output, "RUN", id)

      assert {:ok, _time, 0} = DateTime.from_iso8601(since)
      refute output =~ "\e", "colours are for terminals"
    end

    test "a dead run is marked, whether it has a record or not", %{dir: dir} do
      vm = crashed(dir)
      [orphan] = vm.trees["w"]
      gone = "#{pid(vm.identity)} gone"

      for record? <- [true, false] do
        unless record?, do: File.rm!(record(dir, vm))
        {output, 0} = cli(dir, ["ps"])
        assert %{"IS" => "DEAD", "OWNER" => ^gone} = row(output, "PID", pid(orphan))
        {output, 0} = cli(dir, ["runs"])
        assert %{"IS" => "DEAD", "OWNER" => ^gone, "WHY" => why} = row(output, "RUN", vm.run_id)
        assert why =~ "no record" == not record?
      end
    end

    @tag needs: :root
    test "other users' processes are shown by --all only", %{dir: dir} do
      decoy =
        start_decoy("another user's process with a forged tag",
          env: Tag.env("forged2", 1, Tag.dead_owner()),
          locks: Tag.locks("forged2", 1),
          uid: 65_534
        )

      {output, 0} = cli(dir, ["ps"])
      assert row(output, "PID", pid(decoy.identity)) == nil
      {output, 0} = cli(dir, ["ps", "--all"])
      assert %{"IS" => "foreign user"} = row(output, "PID", pid(decoy.identity))
      # Only another user's process names that run, so it is no run of this user.
      assert {"leash: forged2: no such run\n", 1} = cli(dir, ["kill", "forged2"])
      assert_unharmed(decoy)
    end

    test "a run directory from the environment may be missing, and none is made" do
      path = Path.join(tmp_dir!(), "app")
      env = [{"LEASH_RUN_DIR", ""}, {"RUNTIME_DIRECTORY", path}]
      {output, 0} = System.cmd(leash(), ["ps"], env: env, stderr_to_stdout: true)
      assert output =~ "#{path}/leash: no such run directory"
      {_output, 4} = System.cmd(leash(), ["sweep"], env: env, stderr_to_stdout: true)
      refute File.exists?(path)
    end
  end

  describe "sweep" do
    test "ends orphans of dead runs, and no other process", %{dir: dir} do
      decoys = Decoys.all()
      neighbour = live(dir)
      vm = crashed(dir)
      lookalikes = Decoys.of_run(vm.run_id)
      on_exit(fn -> Enum.each(lookalikes, &Decoy.stop/1) end)
      [orphan] = vm.trees["w"]

      {output, 0} = cli(dir, ["sweep", "--dry-run"])
      assert %{"WHAT" => "would end", "WHY" => "dead: " <> _} = row(output, "PID", pid(orphan))
      os = neighbour.workers["w"].os
      assert %{"WHAT" => "kept", "WHY" => "live: " <> _} = row(output, "PID", pid(os))
      assert output =~ ~r/^would end \d+ process(es)? of 1 dead run; nothing was sent$/m
      assert Observer.alive?(orphan)
      assert File.exists?(record(dir, vm))

      {output, 0} = cli(dir, ["sweep"])
      refute Observer.alive?(orphan)
      assert_gone(vm.carrier)
      assert %{"WHAT" => "ended", "WHY" => why} = row(output, "PID", pid(orphan))
      assert why =~ "by SIGTERM"
      assert output =~ "records dropped: #{vm.run_id}"
      refute File.exists?(record(dir, vm))

      assert Decoys.harmed(decoys ++ lookalikes) == []

      for {_label, %{os: os, shim: shim}} <- neighbour.workers,
          one <- [os, shim | neighbour.trees["w"]] do
        assert Observer.alive?(one)
      end

      assert File.exists?(record(dir, neighbour))
      assert {_output, 1} = cli(dir, ["kill", vm.run_id])
    end

    test "ends only runs of the application that is asked for", %{dir: dir} do
      vm = crashed(dir)
      [orphan] = vm.trees["w"]
      {_output, 0} = cli(dir, ["sweep", "--app", "office"])
      assert Observer.alive?(orphan)
      {_output, 0} = cli(dir, ["sweep", "--app", "shop"])
      refute Observer.alive?(orphan)
    end

    @freezer "/sys/fs/cgroup/freezer"
    if not File.exists?(@freezer <> "/cgroup.procs"),
      do: @tag(skip: "no freezer of cgroup v1")

    test "says what is left when the time is over", %{dir: dir} do
      vm = crashed(dir)
      [orphan] = vm.trees["w"]
      group = Path.join(@freezer, "leash-cli-#{System.pid()}")
      File.mkdir!(group)

      # A frozen process does not even see SIGKILL before it is thawed.
      try do
        File.write!(Path.join(group, "cgroup.procs"), "#{pid(orphan)}")
        File.write!(Path.join(group, "freezer.state"), "FROZEN")
        {output, 1} = cli(dir, ["sweep", "--deadline", "600"])
        assert %{"WHAT" => "SURVIVED"} = row(output, "PID", pid(orphan))
        assert output =~ "; 1 left"
        assert File.exists?(record(dir, vm))
      after
        File.write!(Path.join(group, "freezer.state"), "THAWED")
        assert_eventually(fn -> File.rmdir(group) == :ok end)
      end

      refute Observer.alive?(orphan)
    end
  end

  describe "kill" do
    test "ends a dead run's rest and leaves another one's alone", %{dir: dir} do
      [one, other] = [crashed(dir), crashed(dir)]
      {output, 0} = cli(dir, ["kill", one.run_id])
      assert output =~ "records dropped: #{one.run_id}"
      assert_gone(one.carrier)
      [orphan] = other.trees["w"]
      assert Observer.alive?(orphan)
      assert File.exists?(record(dir, other))
      {_output, 0} = cli(dir, ["kill", other.run_id])
      assert_gone(other.carrier)
    end

    test "refuses a live run, and with --force stops its VM, whose tree ends", %{dir: dir} do
      vm = live(dir)
      neighbour = live(dir)
      {output, 3} = cli(dir, ["kill", vm.run_id])
      assert output =~ "--force"
      for one <- [vm.identity | vm.trees["w"] ++ VM.shims(vm)], do: assert(Observer.alive?(one))

      {output, 0} = cli(dir, ["kill", vm.run_id, "--force"])
      assert output =~ ~r/process #{pid(vm.identity)}, got SIGTERM and ended after \d+ ms/
      # The warden ends some milliseconds after its VM, by itself or by the command.
      assert output =~ ~r/nothing of its run is left|--warden .*\nended 1 process of 1 dead run/
      assert_gone(vm.carrier)
      refute File.exists?(record(dir, vm))
      # SIGTERM stops the applications of a VM in good order; a harder end leaves status 128 + n.
      assert_receive {port, {:exit_status, 0}} when port == vm.port, 5_000

      for one <- [neighbour.identity | neighbour.trees["w"]], do: assert(Observer.alive?(one))
    end

    test "a VM that does not end in time is left to the operator", %{dir: dir} do
      vm = live(dir)
      VM.signal(vm, "STOP")
      {output, 1} = cli(dir, ["kill", vm.run_id, "--force", "--deadline", "300"])
      assert output =~ "still lives"
      assert Observer.alive?(vm.identity)
      for one <- vm.trees["w"], do: assert(Observer.alive?(one))
      VM.signal(vm, "CONT")
      assert_gone(vm.carrier, 20_000)
    end

    test "a tag does not choose whose VM gets SIGTERM", %{dir: dir} do
      # The forged tag names a living process as owner, which never was one. If the command
      # believed the tag, it would end the decoy.
      named = start_decoy("a process that a forged tag names as owner")

      bearer =
        start_decoy("a process with a forged tag", env: Tag.env("forged1", 1, named.identity))

      {output, 3} = cli(dir, ["kill", "forged1", "--force"])
      assert output =~ "no record"
      assert_unharmed(named)
      assert_unharmed(bearer)

      # The same for a run that exists, while its record is away.
      vm = live(dir)
      File.rename!(record(dir, vm), Path.join(dir, "away"))
      {_output, 3} = cli(dir, ["kill", vm.run_id, "--force"])
      File.rename!(Path.join(dir, "away"), record(dir, vm))
      assert Observer.alive?(vm.identity)
    end

    test "a run cannot be ended from inside of it", %{dir: dir} do
      said = Path.join(dir, "said")

      line =
        ~s|#{leash()} --run-dir #{dir} kill ${LEASH_RUN%%.*} --force > #{said} 2>&1; | <>
          ~s|echo status $? >> #{said}; echo ready; exec sleep 90|

      vm = live(dir, [{"w", [command: "sh", args: ["-c", line]]}])

      assert File.read!(said) =~
               ~r/own outer run: this command was started from inside of it.*\nstatus 3\n\z/s

      assert Observer.alive?(vm.identity)
      assert Observer.alive?(vm.workers["w"].os)
    end

    test "two operators at once do not end each other, though both name the run", %{dir: dir} do
      said = Path.join(dir, "said")

      # The shell itself creates the file: another process would get SIGTERM as well.
      stubborn =
        ~s|setsid sh -c 'trap ": > #{said}" TERM; echo ready $$; while :; do sleep 1; done' & wait|

      # The shell reports its killed child on stderr, which is a broken pipe after the VM's end.
      vm = crashed(dir, [{"w", [command: "sh", args: ["-c", stubborn], stderr: :null]}])
      [orphan] = vm.trees["w"]

      one = Task.async(fn -> cli(dir, ["kill", vm.run_id, "--stop", "TERM:3000"]) end)
      # The command is at work, with the run's id among its arguments, when the other one sweeps.
      assert_eventually(fn -> File.exists?(said) end)
      assert [_leash] = Observer.with_argument(vm.run_id)
      {_output, 0} = cli(dir, ["sweep", "--stop", "TERM:100"])
      refute Observer.alive?(orphan)
      assert {_output, 0} = Task.await(one, 20_000)
      assert_gone(vm.carrier)
    end
  end

  describe "exit statuses" do
    test "say what was wrong", %{dir: dir} do
      assert {_output, 2} = cli(dir, ["dance"])
      assert {_output, 2} = cli(dir, ["kill", "-1"])
      assert {_output, 2} = cli(dir, ["kill", "S59M65F"])
      assert {_output, 2} = cli(dir, ["top"])
      assert {_output, 1} = cli(dir, ["kill", "zzzzzzz"])
      assert {_output, 1} = cli(dir, ["tree", "zzzzzzz"])
      assert {_output, 4} = cli(Path.join(dir, "missing"), ["ps"])
      refute File.exists?(Path.join(dir, "missing"))
      File.chmod!(dir, 0o755)
      assert {output, 4} = cli(dir, ["runs"])
      assert output =~ "chmod 700"
    end
  end

  describe "what it says of itself" do
    @guide Path.expand("../../guides/cli.md", __DIR__)

    defp commands(dir) do
      {help, 0} = cli(dir, ["--help"])
      [_before, list] = String.split(help, "Commands:\n", parts: 2)
      [list, _after] = String.split(list, "\n\n", parts: 2)
      for [_all, name] <- Regex.scan(~r/^  (\w+) /m, list), do: name
    end

    test "the guide has every command with all of its options, and every status", %{dir: dir} do
      guide = File.read!(@guide)
      commands = commands(dir)
      assert Enum.sort(commands) == ~w(kill ps runs stop sweep top tree)

      for command <- commands do
        assert [_all, usage] = Regex.run(~r/^\| `leash #{command}( .*?)?` \|/m, guide)
        {help, 0} = cli(dir, [command, "--help"])

        for [_all, option] <- Regex.scan(~r/^ +(?:-\w, )?(--[a-z-]+)/m, help),
            option not in ~w(--help --run-dir) do
          assert usage =~ "[#{option}", "#{command} #{option}"
        end
      end

      {help, 0} = cli(dir, ["--help"])
      [_before, statuses] = String.split(help, "Exit status:\n", parts: 2)

      for [_all, status] <- Regex.scan(~r/^  (\d)  /m, statuses),
          do: assert(guide =~ ~r/^\| #{status} \| /m, status)
    end

    test "completions are scripts that know every command, and pages are pages", %{dir: dir} do
      for shell <- ~w(bash zsh fish elvish) do
        {script, 0} = cli(dir, ["completions", shell])
        for command <- commands(dir), do: assert(script =~ command, "#{shell} #{command}")
        assert script =~ "all-runs"
        path = Path.join(dir, shell)
        File.write!(path, script)

        if shell in ~w(bash zsh) and System.find_executable(shell),
          do: assert({"", 0} = System.cmd(shell, ["-n", path], stderr_to_stdout: true))
      end

      # Bash itself parses the script.
      code = """
      source #{Path.join(dir, "bash")}
      COMP_WORDS=(leash st) COMP_CWORD=1
      _leash leash st leash
      echo "${COMPREPLY[@]}"
      """

      assert {"stop\n", 0} = System.cmd("bash", ["-c", code], stderr_to_stdout: true)

      for page <- [[] | Enum.map(commands(dir), &[&1])] do
        {text, 0} = cli(dir, ["man" | page])
        assert text =~ ~r/^\.TH leash/m
        assert text =~ "\\-\\-run\\-dir"
      end

      assert {_output, 2} = cli(dir, ["man", "dance"])
    end
  end
end
