defmodule Leash.Test.Decoys do
  @moduledoc """
  Processes and runs that must never be harmed: processes that look like ours, and live runs that
  look like dead ones.

  They start once for all tests that ask, and end after the suite. An Agent holds them, and they
  end with it.
  """

  use Agent

  alias Leash.Test.{Carrier, Decoy, Name, Observer, Python, Tag, VM}

  @doc "The shared decoys."
  @spec all() :: [Decoy.t()]
  def all, do: Agent.get(ensure_started(), & &1.decoys, 60_000)

  @doc "Returns the directory of their VMs' records. Tests that want to be near them use it, too."
  @spec run_dir() :: String.t()
  def run_dir, do: Path.join(System.tmp_dir!(), Name.of_suite("leash-test-runs"))

  @doc "Returns the harm that was done to them. An empty list is good."
  @spec harmed([Decoy.t()]) :: [String.t()]
  def harmed(decoys), do: for(decoy <- decoys, harm = Decoy.harm(decoy), do: harm)

  @doc "Takes the records away again: the library puts a lost one back within a minute."
  @spec lose_records() :: :ok
  def lose_records, do: Agent.get(ensure_started(), &lose_records/1, 60_000)

  @doc "Starts the decoys that look like workers of one run. `Decoy.stop/1` ends them."
  @spec of_run(String.t()) :: [Decoy.t()]
  def of_run(run_id) do
    [
      Decoy.start("a process with the run's id in its argv",
        argv: ["grep", "--", "--run-id=#{run_id}", "--run-id", run_id]
      ),
      Decoy.start("a process whose variable merely contains the run's tag",
        env: "OTHER_" <> Tag.env(run_id, 1, Tag.dead_owner())
      )
    ]
  end

  @doc "Starts a decoy with the tag of the run that names another owner, which lives."
  @spec same_tag(String.t()) :: Decoy.t()
  def same_tag(run_id) do
    Decoy.start("a process with the run's env tag and a living owner",
      env: Tag.env(run_id, 1, own_identity())
    )
  end

  @doc "Ends them all."
  @spec stop() :: :ok
  def stop do
    with pid when pid != nil <- Process.whereis(__MODULE__) do
      Agent.get(pid, &stop/1, 60_000)
      Agent.stop(pid)
      File.rm_rf!(run_dir())
    end

    :ok
  end

  defp stop(state) do
    Enum.each(state.vms, &VM.stop/1)
    Enum.each(state.decoys, &Decoy.stop/1)
  end

  defp ensure_started do
    case Agent.start(&start/0, name: __MODULE__, timeout: 120_000) do
      {:ok, pid} -> pid
      {:error, {:already_started, pid}} -> pid
    end
  end

  defp start do
    File.mkdir_p!(run_dir())
    File.chmod!(run_dir(), 0o700)

    logs =
      for name <- [:deleted, :replaced, :neighbour, :inner],
          into: %{},
          do: {name, Decoy.log_path()}

    booting =
      for {name, log} <- logs,
          name != :inner or namespaces?(),
          into: %{},
          do: {name, boot(name, log)}

    plain = processes()
    vms = Map.new(booting, fn {name, vm} -> {name, VM.await(vm)} end)
    state = %{vms: Map.values(vms), named: vms, decoys: plain ++ of_vms(vms, logs)}
    lose_records(state)
    state
  end

  # Not in a chroot: a mount namespace of its own needs a root that is a mount.
  defp namespaces? do
    match?(
      {_, 0},
      System.cmd("unshare", ~w(--pid --fork --mount-proc true), stderr_to_stdout: true)
    )
  end

  defp boot(name, log) do
    prefix = if name == :inner, do: "unshare --pid --fork --kill-child --mount-proc", else: ""
    [python | args] = Python.argv("decoy.py", [log, Decoy.life()])
    VM.boot(run_dir(), [{"decoy", [command: python, args: args]}], prefix: prefix)
  end

  defp processes do
    [
      Decoy.start("a process with a tag whose owner lives",
        env: Tag.env("decoy01", 1, own_identity()),
        locks: Tag.locks("decoy01", 1)
      )
    ] ++
      if root?() do
        [
          Decoy.start("a process of another uid with a forged tag",
            env: Tag.env("decoy02", 1, Tag.dead_owner()),
            locks: Tag.locks("decoy02", 1),
            uid: 65_534
          )
        ]
      else
        []
      end
  end

  defp own_identity, do: System.pid() |> String.to_integer() |> Observer.identity()

  @titles %{
    deleted: "a live VM whose record was deleted",
    replaced: "a live VM whose record was replaced by a renamed copy",
    neighbour: "a live VM of the same application",
    inner: "a live VM in a child pid namespace"
  }

  defp of_vms(vms, logs) do
    for {name, vm} <- vms,
        [{pid, _ticks} = worker] = Observer.with_argument(logs[name]),
        shim = pid |> Observer.parent() |> Observer.identity(),
        shim?(shim),
        decoy <- [
          Decoy.adopt(@titles[name], vm_identity(vm)),
          Decoy.adopt("the shim of " <> @titles[name], shim),
          Decoy.adopt("the worker of " <> @titles[name], worker, logs[name])
        ],
        do: decoy
  end

  defp shim?({pid, _ticks}), do: pid |> Observer.argv() |> hd() |> Path.basename() == "leash-shim"

  # Behind `unshare` the VM counts, not unshare itself.
  defp vm_identity(vm) do
    Enum.find(Carrier.members(vm.carrier), vm.identity, fn {pid, _ticks} ->
      pid |> Observer.argv() |> hd() |> Path.basename() == "beam.smp"
    end)
  end

  defp lose_records(%{named: %{deleted: deleted, replaced: replaced}}) do
    _ = File.rm(record(deleted))
    copy = record(replaced) <> ".copy"
    # The record may be on its way back at this very moment.
    with :ok <- File.cp(record(replaced), copy), do: File.rename!(copy, record(replaced))
    :ok
  end

  @doc "Returns the path of a VM's record in the common directory."
  @spec record(VM.t()) :: String.t()
  def record(vm), do: Path.join(run_dir(), "#{vm.run_id}.json")

  @doc "Whether the tests have root's rights, which some of these decoys need."
  @spec root?() :: boolean()
  def root?, do: match?({"0\n", 0}, System.cmd("id", ["-u"]))
end
