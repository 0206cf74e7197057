defmodule Leash.Cli.TerminalTest do
  # Runs the command in a real terminal and looks at the screen, as an operator does. Serial: it
  # looks at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Test.{Cli, Tmux}

  @moduletag needs: :terminal
  @moduletag timeout: 120_000

  setup do
    dir = tmp_dir!()
    # A run directory of its own, without the runs of other tests.
    runs = Path.join(dir, "runs")
    File.mkdir!(runs)
    File.chmod!(runs, 0o700)
    tmux = Tmux.new(dir)
    on_exit(fn -> Tmux.stop(tmux) end)
    {:ok, dir: runs, tmux: tmux}
  end

  @family ~s|setsid sh -c 'echo ready $$; exec sleep 90' & exec sleep 91|

  defp vm(dir, line \\ @family) do
    workers = [{"w", [command: "sh", args: ["-c", line], stop: [sigterm: 500]]}]
    start_vm(workers, run_dir: dir, env: [sweep: false, app: "shop"])
  end

  defp leash(dir, arguments), do: "#{Cli.path()} --run-dir #{dir} #{arguments}"

  # Returns a line that runs the command and prints a word when it is over.
  defp open(tmux, line, size \\ {150, 40}) do
    Tmux.open(tmux, "echo before; #{line}; echo status $?", size)
  end

  defp finished(tmux) do
    assert_eventually(fn -> Enum.any?(Tmux.screen(tmux), &(&1 =~ ~r/^status \d+$/)) end)
    Tmux.screen(tmux)
  end

  # Puts names in place of what differs from run to run. Columns that only vary in width are two
  # blanks apart.
  defp named(lines, names) do
    names = Enum.sort_by(names, fn {text, _name} -> -String.length(text) end)

    for line <- lines do
      line = String.replace(line, ~r/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ/, "SINCE")

      names
      |> Enum.reduce(line, fn {text, name}, line ->
        String.replace(line, ~r/(?<![\w.])#{text}(?!\w)/, name)
      end)
      |> String.replace(~r/(?<=\s|\[|, )\d+s(?=\s|,)/, "AGE")
      |> String.replace(~r/(?<=\s)\d+[KM](?=\s|\])/, "RSS")
      |> String.replace(~r/(?<=\s\s)(\d+\.\d|-)(?=\s+RSS)/, "CPU")
      |> String.replace(~r/(?<=\S) {2,}/, "  ")
      # A shim or warden may be at work at this very moment.
      |> String.replace(~r/(?<=[A-Z] )[RD](?= (shim|warden|\[))/, "S")
    end
  end

  # Without the lines of other runs: a suite has decoys.
  defp own(lines), do: Enum.reject(lines, &(&1 =~ ~r/^([0-9a-z]{7}|-) /))

  defp names(vm, suffix) do
    %{os: os, shim: shim} = vm.workers["w"]
    [daemon] = vm.trees["w"]
    wardens = for warden <- VM.wardens(vm), do: {warden, "WARDEN"}
    pids = [{os, "LEADER"}, {shim, "SHIM"}, {daemon, "DAEMON"}, {vm.identity, "VM"} | wardens]
    pids = for {{pid, _ticks}, name} <- pids, do: {to_string(pid), name <> suffix}
    [{vm.run_id, "RUN" <> suffix} | pids]
  end

  # The leader started the daemon before the leader became `sleep`. /proc shows the smaller pid of
  # the two first.
  defp in_order(vm, rows) do
    [daemon] = vm.trees["w"]
    if vm.workers["w"].os < daemon, do: rows, else: Enum.reverse(rows)
  end

  test "ps: the whole screen, and its colours", %{dir: dir, tmux: tmux} do
    live = vm(dir)
    dead = vm(dir)
    :ok = kill_all(dead)
    # The process that reaps orphans here: the suite may run below a reaper of its own.
    [{orphan, _ticks}] = dead.trees["w"]
    reaper = Observer.parent(orphan)
    open(tmux, leash(dir, "ps"))
    screen = finished(tmux)

    rows = %{
      live.run_id =>
        in_order(live, [
          "RUN_L  live  1  -  LEADER_L  SHIM_L  VM_L  AGE  RSS  S  sleep 91",
          "RUN_L  live  1  -  DAEMON_L  LEADER_L  VM_L  AGE  RSS  S  sleep 90"
        ]),
      dead.run_id => ["RUN_D  DEAD  1  -  DAEMON_D  #{reaper}  VM_D gone  AGE  RSS  S  sleep 90"]
    }

    expected = for run <- Enum.sort(Map.keys(rows)), row <- rows[run], do: row

    assert own(named(screen, names(live, "_L") ++ names(dead, "_D"))) ==
             ["before", "RUN  IS  WORKER  NAME  PID  PPID  OWNER  AGE  RSS  S  COMMAND"] ++
               expected ++ ["status 0"]

    coloured = Tmux.coloured(tmux)
    assert coloured =~ "\e[1mRUN"
    assert coloured =~ "\e[32mlive"
    assert coloured =~ "\e[31mDEAD"
    Tmux.close(tmux)

    # The same terminal with NO_COLOR set, a terminal without colours, and no terminal at all.
    for line <- [
          "NO_COLOR=1 " <> leash(dir, "ps"),
          "TERM=dumb " <> leash(dir, "ps"),
          leash(dir, "ps") <> " | cat"
        ] do
      open(tmux, line)
      assert Enum.any?(finished(tmux), &(&1 =~ ~r/ DEAD .* sleep 90$/)), line
      refute Tmux.coloured(tmux) =~ "\e[", line
      Tmux.close(tmux)
    end
  end

  test "tree: the whole screen, cut to the width of the terminal", %{dir: dir, tmux: tmux} do
    vm = vm(dir)
    open(tmux, leash(dir, "tree #{vm.run_id}"))

    assert named(finished(tmux), names(vm, "")) == [
             "before",
             "RUN alive  owner VM, app shop, node nonode@nohost, since SINCE, 2 processes",
             "└─ WARDEN S warden",
             "   └─ SHIM S shim of worker 1",
             "      └─ LEADER S [1, live, AGE, RSS] sleep 91",
             "         └─ DAEMON S [1, live, AGE, RSS] sleep 90",
             "status 0"
           ]

    coloured = Tmux.coloured(tmux)
    assert coloured =~ "\e[1m#{vm.run_id}"
    assert coloured =~ "\e[32malive"
    Tmux.close(tmux)

    open(tmux, leash(dir, "tree #{vm.run_id}"), {30, 20})
    screen = finished(tmux)
    assert Enum.find(screen, &(&1 =~ "└─ ")) |> String.length() <= 30

    assert Enum.any?(
             screen,
             &(&1 =~ ~r/^ +└─ \d+ S \[1, live, .*…$/u and String.length(&1) == 30)
           )
  end

  test "sweep and stop: ended is green, kept is plain", %{dir: dir, tmux: tmux} do
    dead = vm(dir)
    :ok = kill_all(dead)
    [orphan] = dead.trees["w"]
    open(tmux, leash(dir, "sweep --app shop"))
    screen = named(finished(tmux), names(dead, ""))
    refute Observer.alive?(orphan)

    assert Enum.any?(
             screen,
             &(&1 =~ ~r/^ended  DAEMON  RUN  1  dead: .*; by SIGTERM  sleep 90$/)
           )

    assert Tmux.coloured(tmux) =~ "\e[32mended"
    Tmux.close(tmux)

    live = vm(dir)
    open(tmux, leash(dir, "stop nobody"))
    assert Enum.any?(finished(tmux), &(&1 == "status 1"))
    assert Observer.alive?(live.workers["w"].os)
  end

  # The earlier screen, the cursor, and a terminal that echoes lines.
  defp assert_given_back(tmux) do
    screen = finished(tmux)
    assert ["before" | _rest] = screen
    assert "status 0" in screen
    assert Tmux.format(tmux, "\#{alternate_on} \#{cursor_flag}") == "0 1"
    Tmux.keys(tmux, ["echoed", "Enter"])
    # The terminal prints the line once, and cat prints it once.
    assert_eventually(fn -> Enum.count(Tmux.screen(tmux), &(&1 == "echoed")) == 2 end)
  end

  test "top: the whole screen, as it changes, until q", %{dir: dir, tmux: tmux} do
    vm = vm(dir)
    [daemon] = vm.trees["w"]
    open(tmux, leash(dir, "top --interval 0.2"))

    head = ~r/^leash: \d+ alive, \d+ dead.*; \d+ process(es)?(, cpu [\d.]+ %)?, \d+[KM]$/
    titles = "RUN  IS  WORKER  NAME  PID  CPU%  RSS  AGE  S  COMMAND"
    leader = "RUN  live  1  -  LEADER  CPU  RSS  AGE  S  sleep 91"
    child = "RUN  live  1  -  DAEMON  CPU  RSS  AGE  S  sleep 90"

    shown = fn ->
      [first | rest] = Tmux.screen(tmux)

      if first =~ head and List.last(rest) =~ ~r/; q quits$/,
        do: rest |> Enum.drop(-1) |> named(names(vm, "")) |> own()
    end

    assert_eventually(fn -> shown.() == [titles | in_order(vm, [leader, child])] end)

    assert Tmux.format(tmux, "\#{alternate_on} \#{cursor_flag}") == "1 0"
    coloured = Tmux.coloured(tmux)
    assert coloured =~ ~r/\e\[1mleash: \d/
    assert coloured =~ "\e[32mlive"

    # The parent does not reap it, so a zombie stays. The screen may show it as ended, or not at
    # all.
    Observer.signal(daemon, "KILL")

    assert_eventually(fn ->
      match?([^titles, ^leader | rest] when length(rest) <= 1, shown.()) and child not in shown.()
    end)

    Tmux.keys(tmux, ["x"])
    Tmux.keys(tmux, ["q"])
    assert_given_back(tmux)
  end

  defp named_workers do
    worker = fn name -> [command: "sh", args: ["-c", @family], name: name, group: :pool] end
    [{"a", worker.({:global, :first})}, {"b", worker.({:global, :second})}]
  end

  # The record keeper writes names once a second.
  defp await_names(dir) do
    assert_eventually(fn ->
      {output, 0} = Cli.run(dir, ["ps"])
      output =~ "{:global, :first}" and output =~ "{:global, :second}"
    end)
  end

  test "a worker's name is shown while its VM lives and after it was killed",
       %{dir: dir, tmux: tmux} do
    vm = start_vm(named_workers(), run_dir: dir, env: [sweep: false, app: "shop"])
    await_names(dir)
    {tree, 0} = Cli.run(dir, ["tree", vm.run_id])
    assert tree =~ ~r/shim of worker \d, {:global, :first} of :pool$/m

    :ok = kill_all(vm)
    [{orphan, _ticks}] = vm.trees["a"]
    open(tmux, leash(dir, "ps"))

    assert Enum.any?(
             finished(tmux),
             &(&1 =~ ~r/^#{vm.run_id}  DEAD +\d  {:global, :first} +#{orphan} /)
           )
  end

  test "top: a selected worker ends after a yes, and no other process does",
       %{dir: dir, tmux: tmux} do
    decoy = start_decoy("beside the terminal")
    vm = start_vm(named_workers(), run_dir: dir, env: [sweep: false, app: "shop"])
    await_names(dir)
    open(tmux, leash(dir, "top --interval 0.2"))
    rows = fn -> Enum.filter(Tmux.screen(tmux), &String.starts_with?(&1, vm.run_id)) end
    last = fn -> List.last(Tmux.screen(tmux)) end

    Tmux.keys(tmux, ["w"])
    assert_eventually(fn -> Enum.at(Tmux.screen(tmux), 1) =~ "PROCESSES" end)
    assert [first, _second] = rows.()
    [label] = Regex.run(~r/:first|:second/, first)
    selected = if label == ":first", do: "a", else: "b"
    other = if selected == "a", do: "b", else: "a"

    # Decoys of other tests may stand above.
    [_head, _titles | table] = Tmux.screen(tmux)
    above = Enum.find_index(table, &String.starts_with?(&1, vm.run_id))
    Tmux.keys(tmux, List.duplicate("Down", above + 1))
    Tmux.keys(tmux, ["k"])
    question = ~r/^end worker \d+ \({:global, #{label}}\) of #{vm.run_id} with its 2 processes\?/
    assert_eventually(fn -> last.() =~ question end)
    Tmux.keys(tmux, ["n"])
    assert_eventually(fn -> last.() =~ "q quits" end)
    assert Observer.alive?(vm.workers[selected].os)

    Tmux.keys(tmux, ["k"])
    assert_eventually(fn -> last.() =~ question end)
    Tmux.keys(tmux, ["y"])
    assert_eventually(fn -> last.() =~ ~r/^worker \d+ ended: SIGTERM, / end)
    refute Observer.alive?(vm.workers[selected].os)
    assert Observer.alive?(vm.workers[other].os)
    assert_eventually(fn -> match?([_one], rows.()) end)

    Tmux.keys(tmux, ["t"])
    assert_eventually(fn -> Enum.any?(Tmux.screen(tmux), &(&1 =~ "└─ ")) end)
    assert_unharmed(decoy)
    Tmux.keys(tmux, ["q"])
    assert_given_back(tmux)
  end

  test "top: another size is drawn at once, and never more than fits", %{dir: dir, tmux: tmux} do
    many = ~s|for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 90 & done; echo ready; wait|
    vm = vm(dir, many)
    whole? = fn -> Enum.count(Tmux.screen(tmux), &String.starts_with?(&1, vm.run_id)) == 13 end
    # Only the new size can make it draw again.
    open(tmux, leash(dir, "top --interval 3600"), {100, 100})
    assert_eventually(whole?)
    Tmux.resize(tmux, {40, 8})

    assert_eventually(fn ->
      screen = Tmux.screen(tmux)

      length(screen) == 8 and List.last(screen) =~ ~r/^and \d+ more; / and
        Enum.all?(screen, &(String.length(&1) <= 40))
    end)

    Tmux.resize(tmux, {100, 100})
    assert_eventually(whole?)
    Tmux.keys(tmux, ["q"])
    assert_given_back(tmux)
  end

  test "top: whatever ends it gives the terminal back", %{dir: dir, tmux: tmux} do
    for how <- [:ctrl_c, :ctrl_d, "INT", "TERM", "HUP", "QUIT"] do
      open(tmux, leash(dir, "top --interval 3600"))
      assert_eventually(fn -> List.last(Tmux.screen(tmux)) =~ "q quits" end)

      case how do
        :ctrl_c ->
          Tmux.keys(tmux, ["C-c"])

        :ctrl_d ->
          Tmux.keys(tmux, ["C-d"])

        signal ->
          [top] =
            Enum.filter(
              Observer.with_argument("top"),
              &(Observer.argv(elem(&1, 0)) |> hd() == Cli.path())
            )

          Observer.signal(top, signal)
      end

      assert_given_back(tmux)
      Tmux.close(tmux)
    end
  end

  @tag needs: :operator_terminal
  test "from inside of a VM the terminal is the same", %{dir: dir, tmux: tmux} do
    vm = vm(dir)
    ebin = Application.app_dir(:leash, "ebin")

    code =
      ~s|Application.put_env(:leash, :run_dir, "#{dir}"); Leash.Operator.tree() \|> System.halt()|

    elixir = System.find_executable("elixir")
    open(tmux, "#{elixir} -pa #{ebin} -e '#{code}'")

    assert "      └─ LEADER S [1, live, AGE, RSS] sleep 91" in named(
             finished(tmux),
             names(vm, "")
           )

    assert "status 0" in Tmux.screen(tmux)
    assert Tmux.coloured(tmux) =~ "\e[32malive"
    assert Observer.alive?(vm.workers["w"].os)
  end
end
