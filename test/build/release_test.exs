defmodule Leash.Build.ReleaseTest do
  @moduledoc """
  Tests the example of a release: it is built as documented, ended in every way, and started
  again.
  """

  # Serial: Mix in another VM takes both cores, and the release's sweeps look at every process.
  use Leash.Test.Case, async: false

  @moduletag :slow

  alias Leash.Build.Sandbox
  alias Leash.Test.{Name, Script}

  @moduletag :build
  @moduletag timeout: 240_000

  @example Path.join(Sandbox.root(), "examples/release")

  setup_all do
    directory = Path.join(System.tmp_dir!(), Name.of_suite("leash-release"))
    File.rm_rf!(directory)
    on_exit(fn -> File.rm_rf!(directory) end)
    release = Path.join(directory, "rel")

    # The release's files name the port on which the VM listens.
    {:ok, socket} = :gen_tcp.listen(0, ip: {127, 0, 0, 1})
    {:ok, port} = :inet.port(socket)
    :ok = :gen_tcp.close(socket)

    Sandbox.mix!(@example, ["release", "--quiet", "--path", release], [
      {"LEASH_PREBUILT", Sandbox.artefacts()},
      {"MIX_BUILD_PATH", Path.join(directory, "build")},
      {"KENNEL_PORT", "#{port}"}
    ])

    env = [
      {"LEASH_RUN_DIR", Path.join(directory, "runs")},
      {"RELEASE_DISTRIBUTION", "name"},
      {"RELEASE_NODE", "kennel@127.0.0.1"},
      {"ERL_CRASH_DUMP_SECONDS", "0"},
      {"LC_ALL", "C.UTF-8"}
    ]

    %{bin: Path.join(release, "bin/kennel"), env: env}
  end

  setup do: {:ok, decoy: start_decoy("beside a release")}

  # Runs `bin/kennel start`, which becomes the VM, until its programs are there.
  defp start_release(context) do
    carrier = new_carrier()
    line = "exec #{context.bin} start 2>&1"
    {port, vm, pids} = Script.start(line, carrier, context.env)
    pids = Enum.map(pids, &(&1 |> String.to_integer() |> Observer.identity()))
    [one, shim, other, other_shim] = pids
    release = %{port: port, vm: vm, carrier: carrier, programs: [one, other]}
    release = Map.put(release, :shims, [shim, other_shim])
    for process <- [vm | pids], do: assert(Observer.alive?(process))
    # Two programs, each with its child, and their shims.
    assert length(Carrier.members(carrier)) >= 7
    release
  end

  # Returns what it printed since it was ready, and its status.
  defp said(port) do
    receive do
      {^port, {:data, {_eol, line}}} -> [line | said(port)]
      {^port, {:exit_status, status}} -> [status]
    after
      15_000 -> flunk("the release goes on")
    end
  end

  defp assert_started_anew(context) do
    release = start_release(context)
    assert length(release.programs) == 2
    Observer.signal(release.vm, "TERM")
    assert List.last(said(release.port)) == 0
    assert_gone(release.carrier, 2_000)
  end

  test "bin/kennel stop ends its programs in order, and leaves no port mapper", context do
    release = start_release(context)
    stop = Carrier.enter(release.carrier) <> "exec #{context.bin} stop"
    assert {_output, 0} = System.cmd("sh", ["-c", stop], env: context.env)
    assert List.last(said(release.port)) == 0
    # Includes all programs that the VM of `stop` started.
    assert_gone(release.carrier, 2_000)
    assert_unharmed(context.decoy)
    assert_started_anew(context)
  end

  test "SIGTERM ends them in order", context do
    release = start_release(context)
    Observer.signal(release.vm, "TERM")
    assert List.last(said(release.port)) == 0
    assert_gone(release.carrier, 2_000)
    assert_unharmed(context.decoy)
  end

  test "after SIGKILL they are gone within two seconds, and the next start finds none", context do
    release = start_release(context)
    Observer.signal(release.vm, "KILL")
    assert List.last(said(release.port)) == 128 + 9
    assert_gone(release.carrier, 2_000)
    assert_unharmed(context.decoy)
    assert_started_anew(context)
  end

  test "when shims and warden are killed, too, the next start ends what is left", context do
    release = start_release(context)
    members = Carrier.members(release.carrier)
    wardens = Enum.filter(members, fn {pid, _ticks} -> "--warden" in Observer.argv(pid) end)
    assert [_warden] = wardens
    everybody = [release.vm | release.shims ++ wardens]
    orphans = members -- (everybody ++ release.programs)
    Observer.signal_all(everybody, "STOP")
    Observer.signal_all(everybody, "KILL")
    assert List.last(said(release.port)) == 128 + 9
    assert_eventually(fn -> not Enum.any?(everybody ++ release.programs, &Observer.alive?/1) end)
    orphans = Enum.filter(orphans, &Observer.alive?/1)
    assert length(orphans) >= 2

    {next, vm, _pids} = Script.start("exec #{context.bin} start 2>&1", new_carrier(), context.env)
    assert_gone(release.carrier)
    Observer.signal(vm, "TERM")
    assert List.last(said(next)) == 0
    assert_unharmed(context.decoy)
  end
end
