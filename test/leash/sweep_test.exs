defmodule Leash.SweepTest do
  # Serial: sweeps look at every process.
  use Leash.Test.Case, async: false

  @moduletag timeout: 60_000

  setup do: {:ok, dir: tmp_dir!()}

  # A crashed run: VM, warden and shim are killed, and a daemon of the worker is left.
  defp crashed(dir, options \\ []) do
    daemon = ~s|setsid sh -c 'echo ready $$; exec sleep 60' & wait|
    workers = [{"w", [command: "sh", args: ["-c", daemon]]}]
    vm = start_vm(workers, [run_dir: dir] ++ options)
    [orphan] = vm.trees["w"]
    Observer.kill_together(VM.supervision(vm))
    assert Observer.alive?(orphan)
    %{run_id: vm.run_id, orphan: orphan}
  end

  defp sweeper(dir, options \\ []), do: start_vm([], [run_dir: dir] ++ options)

  test "report mode explains every match and touches nothing", %{dir: dir} do
    %{run_id: id, orphan: {pid, _} = orphan} = crashed(dir)
    vm = sweeper(dir, env: [sweep: false])

    assert {:ok, report} = VM.eval(vm, "Leash.sweep(mode: :report)")
    assert Observer.alive?(orphan)
    match = Enum.find(report.matches, &(&1.pid == pid))
    assert %{run_id: ^id, worker: 1, verdict: :dead, action: :kept} = match
    assert :mark in match.carriers and :env in match.carriers
    assert to_string(match.why) != ""
    assert %{verdict: :dead} = Enum.find(report.runs, &(&1.run_id == id))
    assert report.complete

    assert {:ok, %{survivors: []} = report} = VM.eval(vm, "Leash.sweep()")
    assert %{action: :ended} = Enum.find(report.matches, &(&1.pid == pid))
    assert id in report.records_dropped
    refute Observer.alive?(orphan)
    refute File.exists?(Path.join(dir, id <> ".json"))
  end

  test "the sweep at start ends what is left and says so in one line", %{dir: dir} do
    %{run_id: id, orphan: orphan} = crashed(dir)
    vm = VM.boot(dir, [])
    on_exit(fn -> VM.stop(vm) end)
    lines = fn -> VM.line(vm) end |> Stream.repeatedly() |> Enum.take_while(&(&1 != "ready"))
    refute Observer.alive?(orphan)

    line = ~r/Leash swept 1 processes of 1 dead runs \(#{id}\) in \d+ ms: (.*)/
    assert [[_line, named]] = for(text <- lines, match = Regex.run(line, text), do: match)
    {pid, _ticks} = orphan
    assert named =~ ~r/^#{pid} \(.*sleep.*\) by mark\+env/

    # The report of the sweep can be read as long as the application runs.
    report = VM.eval(vm, "Leash.Sweep.last()")
    assert [%{pid: ^pid, action: :ended}] = for(m <- report.matches, m.run_id == id, do: m)
    assert VM.eval(vm, ":leash.last_sweep()") == report
  end

  test "the line of a sweep names twenty processes and counts the rest" do
    match = &%{pid: &1, command: "x", carriers: [:mark], action: :ended, run_id: "abcdefg"}
    report = %Leash.Sweep{matches: Enum.map(101..125, match), elapsed_ms: 7}
    log = ExUnit.CaptureLog.capture_log(fn -> Leash.Sweep.log(report) end)
    assert log =~ "Leash swept 25 processes of 1 dead runs (abcdefg) in 7 ms: 101 (x) by mark, "
    assert log =~ "120 (x) by mark, and 5 more"
    refute log =~ "121"
    assert ExUnit.CaptureLog.capture_log(fn -> Leash.Sweep.log(%Leash.Sweep{}) end) == ""
  end

  test "the log names what a sweep may not end, and not what it keeps for another reason" do
    match = &%{pid: &1, command: "x", action: :kept, verdict: &2, why: "it may be"}
    report = %Leash.Sweep{matches: [match.(7, :unproven), match.(8, :live), match.(9, :env_only)]}
    log = ExUnit.CaptureLog.capture_log(fn -> Leash.Sweep.log(report) end)
    assert log =~ "Leash left 2 processes that may be of dead runs: 7 (x): it may be, 9 (x): it"
    refute log =~ "8 (x)"
  end

  @tag :slow
  test "scope: :app leaves other applications' dead runs alone", %{dir: dir} do
    %{orphan: theirs} = crashed(dir, env: [app: "theirs"])
    %{orphan: ours} = crashed(dir, env: [app: "ours", sweep: false])
    sweeper(dir, env: [app: "ours", sweep: [scope: :app]])
    refute Observer.alive?(ours)
    assert Observer.alive?(theirs)
    sweeper(dir)
    refute Observer.alive?(theirs)
  end

  test "kill_run ends a dead run and refuses a live one", %{dir: dir} do
    %{run_id: id, orphan: orphan} = crashed(dir)

    live =
      start_vm([{"w", [command: "sh", args: ["-c", "echo ready; exec sleep 60"]]}],
        run_dir: dir,
        env: [sweep: false]
      )

    vm = sweeper(dir, env: [sweep: false])

    assert VM.eval(vm, "Leash.kill_run(#{inspect(live.run_id)})") == {:error, :live}
    assert VM.eval(vm, "Leash.kill_run(Leash.run_id())") == {:error, :own}
    assert Observer.alive?(live.workers["w"].os)
    assert Observer.alive?(orphan)

    assert {:ok, %{survivors: []}} = VM.eval(vm, "Leash.kill_run(#{inspect(id)})")
    refute Observer.alive?(orphan)
    assert Observer.alive?(live.workers["w"].os)
  end

  test "what is no run id kills nothing" do
    for bad <- [
          "",
          "0000000",
          "-1",
          "S59M65F",
          String.duplicate("a", 300),
          "s59m65\n",
          "s59m6\0f",
          nil
        ] do
      assert Leash.kill_run(bad) == {:error, :invalid_run_id}
    end
  end

  test "wrong options are an error and signal nothing" do
    assert %Leash.OptionsError{key: :mode} = catch_error(Leash.sweep(mode: :gently))
    assert %Leash.OptionsError{key: :deadline} = catch_error(Leash.sweep(deadline: -1))
    assert %Leash.OptionsError{key: nil} = catch_error(Leash.sweep(force: true))
  end

  test "two sweeps at the same instant end everything and report no survivor", %{dir: dir} do
    %{orphan: orphan} = crashed(dir)
    vms = for _ <- 1..2, do: VM.boot(dir, [])
    vms = Enum.map(vms, &VM.await/1)
    on_exit(fn -> Enum.each(vms, &VM.stop/1) end)
    refute Observer.alive?(orphan)
    for vm <- vms, do: refute(VM.log(vm) =~ "still alive")
  end

  @tag :slow
  test "a living shim of a dead run finishes its ladder before the sweep returns", %{dir: dir} do
    said = Path.join(System.tmp_dir!(), "leash-said-#{System.unique_integer([:positive])}")
    on_exit(fn -> File.rm(said) end)

    # The shell reports its killed child on stderr, which is a broken pipe after the VM's end.
    script =
      "trap 'sleep 1; echo bye > #{said}; exit 0' TERM; echo ready; while :; do sleep 0.05; done"

    vm =
      start_vm(
        [{"w", [command: "sh", args: ["-c", script], stderr: :null, stop: [sigterm: 5_000]]}],
        run_dir: dir
      )

    VM.signal(vm, "KILL")
    assert Observer.eventually(5_000, fn -> not Observer.alive?(vm.identity) end)
    sweeper(dir)
    refute Observer.alive?(vm.workers["w"].os)
    assert File.read!(said) == "bye\n"
  end

  test "a stopped shim of a dead run is woken and its tree ended", %{dir: dir} do
    workers = [{"w", [command: "sh", args: ["-c", "echo ready; exec sleep 60"]]}]
    vm = start_vm(workers, run_dir: dir)
    [shim] = VM.shims(vm)
    Observer.signal(shim, "STOP")
    VM.signal(vm, "KILL")
    assert Observer.eventually(5_000, fn -> not Observer.alive?(vm.identity) end)
    assert Observer.alive?(vm.workers["w"].os)
    sweeper(dir)
    refute Observer.alive?(vm.workers["w"].os)
    refute Observer.alive?(shim)
  end
end
