defmodule Leash.Test.Case do
  @moduledoc """
  Tests with a worker in this VM. Each worker starts with a carrier of its own, is counted from
  outside, and is cleared away in any case.
  """

  use ExUnit.CaseTemplate

  alias Leash.Test.{Carrier, Decoy, Name, Observer, Python, VM}
  alias Leash.Worker

  using do
    quote do
      import Leash.Test.Case

      alias Leash.Test.{Carrier, Decoy, Decoys, Observer, Python, Tag, VM}
      alias Leash.{Exit, Worker}
    end
  end

  setup do
    # Workers are linked to the process that starts them, and many tests end them abnormally.
    Process.flag(:trap_exit, true)
    :ok
  end

  @typedoc "A worker and what can be seen of it from outside."
  @type tree :: %{
          worker: pid(),
          carrier: Carrier.t(),
          os: Observer.identity(),
          shim: Observer.identity(),
          tree: [Observer.identity()]
        }

  @doc """
  Starts a worker and waits for its `ready` line.

  The program is a shape of `odd.py` or `shapes.py` with its arguments, or `{:sh, line}`, which
  has to print `ready` with its pids.
  """
  @spec start_tree(atom() | [term()] | {:sh, String.t()}, keyword()) :: tree()
  def start_tree(what, options \\ []) do
    carrier = new_carrier()
    options = Keyword.merge(command(what, carrier), options)
    test = self()
    ref = make_ref()
    {options, waits?} = ready(options)
    said = fn stream, text -> send(test, {ref, stream, text}) end
    {:ok, worker} = Worker.start_link(Keyword.put_new(options, :on_output, said))
    pids = if waits? and not Keyword.has_key?(options, :on_output), do: said(ref, ""), else: []
    info = Worker.info(worker)

    %{
      worker: worker,
      carrier: carrier,
      os: Observer.identity(info.os_pid),
      shim: Observer.identity(info.shim_pid),
      tree: Enum.map(pids, &Observer.identity/1)
    }
  end

  defp ready(options) do
    case Keyword.pop(options, :ready, ~r/^ready/) do
      {nil, options} -> {options, false}
      {ready, options} -> {[ready: ready] ++ options, true}
    end
  end

  defp said(ref, text) do
    case Regex.run(~r/^ready((?: \d+)*)\r?\n/m, text) do
      [_all, pids] ->
        pids |> String.split() |> Enum.map(&String.to_integer/1)

      nil ->
        receive do
          {^ref, _stream, more} -> said(ref, text <> more)
        after
          10_000 -> flunk("no ready line in #{inspect(text)}")
        end
    end
  end

  @doc """
  Returns the options that make a worker run a fixture, or a line of shell, inside a carrier.
  """
  @spec command(atom() | [term()] | {:sh, String.t()}, Carrier.t()) :: keyword()
  def command({:sh, line}, carrier),
    do: [command: "sh", args: ["-c", Carrier.enter(carrier) <> line], stop: [sigterm: 300]]

  def command(shape, carrier) do
    [name | _] = words = shape |> List.wrap() |> Enum.map(&to_string/1)
    command({:sh, "exec " <> Python.quote_all(Python.argv(fixture(name), words))}, carrier)
  end

  defp fixture(shape) do
    matrix = for {_title, key} <- Leash.Test.Matrix.shapes(), do: to_string(key)
    if shape in matrix, do: "shapes.py", else: "odd.py"
  end

  @doc "Makes a carrier that is cleared after the test."
  @spec new_carrier() :: Carrier.t()
  def new_carrier do
    carrier = Carrier.new()
    on_exit(fn -> Carrier.clear(carrier) end)
    carrier
  end

  @doc "Starts a VM that is ended after the test."
  @spec start_vm([{String.t(), keyword()}], keyword()) :: VM.t()
  def start_vm(workers, options \\ []) do
    booting = VM.boot(options[:run_dir] || Leash.Test.Decoys.run_dir(), workers, options)
    on_exit(fn -> VM.stop(booting) end)
    VM.await(booting)
  end

  @doc """
  Kills a VM, its warden and its shims so that none can act on another's end. Returns when all are
  gone.
  """
  @spec kill_all(VM.t()) :: :ok
  def kill_all(vm) do
    everybody = VM.supervision(vm)
    # The parent death signal ends the leaders a moment later.
    leaders = for {_label, %{os: os}} <- vm.workers, do: os
    Observer.kill_together(everybody, leaders)
  end

  @doc "Starts a decoy that is ended after the test."
  @spec start_decoy(String.t(), keyword()) :: Decoy.t()
  def start_decoy(name, options \\ []) do
    decoy = Decoy.start(name, options)
    on_exit(fn -> Decoy.stop(decoy) end)
    decoy
  end

  @doc "Checks that nothing is listed any more after the test."
  @spec nothing_is_listed_after() :: :ok
  def nothing_is_listed_after,
    do: on_exit(fn -> assert_eventually(fn -> Leash.list() == [] end) end)

  @doc """
  Freezes a process, so that nothing can end it (`needs: :freezer`). The process is thawed after
  the test.
  """
  @spec freeze(Observer.identity()) :: Path.t()
  def freeze({pid, _ticks}) do
    path = "/sys/fs/cgroup/freezer/" <> Name.unique("leash-test")

    File.mkdir!(path)

    on_exit(fn ->
      File.write(Path.join(path, "freezer.state"), "THAWED")
      Observer.eventually(5_000, fn -> File.rmdir(path) in [:ok, {:error, :enoent}] end)
    end)

    File.write!(Path.join(path, "cgroup.procs"), "#{pid}")
    File.write!(Path.join(path, "freezer.state"), "FROZEN")
    assert_eventually(fn -> File.read!(Path.join(path, "freezer.state")) == "FROZEN\n" end)
    path
  end

  @doc "Thaws a frozen process."
  @spec thaw(Path.t()) :: :ok
  def thaw(path), do: File.write!(Path.join(path, "freezer.state"), "THAWED")

  @doc "Makes a directory that is removed after the test."
  @spec tmp_dir!() :: String.t()
  def tmp_dir! do
    path = Path.join(System.tmp_dir!(), Name.unique("leash-test"))

    File.mkdir!(path)
    File.chmod!(path, 0o700)
    on_exit(fn -> File.rm_rf!(path) end)
    path
  end

  @doc "Checks that the whole tree is there."
  @spec assert_alive(tree()) :: :ok
  def assert_alive(tree) do
    for identity <- [tree.os, tree.shim | tree.tree],
        do: assert(Observer.alive?(identity), "not alive: #{Observer.describe(identity)}")

    assert Carrier.members(tree.carrier) != []
    :ok
  end

  @doc """
  Waits until nothing of the tree is left, for so many milliseconds at most; returns how many it
  took.
  """
  @spec assert_gone(tree() | Carrier.t(), non_neg_integer()) :: non_neg_integer()
  def assert_gone(tree, ms \\ 0)

  def assert_gone(%Carrier{} = carrier, ms),
    do: assert_none(fn -> Carrier.members(carrier) end, ms)

  # Checks by the carrier and by identity: each of them could miss a process that the other sees.
  def assert_gone(tree, ms) do
    known = [tree.os, tree.shim | tree.tree]

    assert_none(
      fn -> Carrier.members(tree.carrier) ++ Enum.filter(known, &Observer.alive?/1) end,
      ms
    )
  end

  defp assert_none(left, ms) do
    took = Observer.eventually(ms, fn -> left.() == [] end)
    assert took, "left: #{Enum.map_join(left.(), "; ", &Observer.describe/1)}"
    took
  end

  @doc "Checks that the condition holds within so many milliseconds."
  @spec assert_eventually((() -> as_boolean(term())), non_neg_integer()) :: non_neg_integer()
  def assert_eventually(condition, ms \\ 5_000) do
    took = Observer.eventually(ms, condition)
    assert took, "did not happen within #{ms} ms"
    took
  end

  @doc "Checks that a decoy lives and no signal reached it."
  @spec assert_unharmed(Decoy.t()) :: :ok
  def assert_unharmed(decoy) do
    assert Decoy.harm(decoy) == nil
    :ok
  end

  @doc "Returns what a report says of a process."
  @spec match_of(Leash.Sweep.t(), Observer.identity()) :: map() | nil
  def match_of(report, {pid, _ticks}), do: Enum.find(report.matches, &(&1.pid == pid))

  @doc "Returns what a report says of a run."
  @spec run_of(Leash.Sweep.t(), String.t()) :: map() | nil
  def run_of(report, run_id), do: Enum.find(report.runs, &(&1.run_id == run_id))
end
