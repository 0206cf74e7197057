defmodule Leash.Degraded do
  # `config :leash, unsupported_os: :degrade`: programs on plain ports, on a system that Leash
  # does not run on.
  #
  # A program is the leader of a process group, and its group is ended with its owner and with the
  # VM. What leaves the group is not ended. There is no run, no mark, no shim and no sweep. A
  # group is signalled by its number. `guides/systems.md` says what is the same and what is not.
  #
  # `Leash.Application` chooses it at start, and `Leash.Run` knows it from then on.
  @moduledoc false

  use Supervisor

  require Logger

  alias Leash.Degraded.{Keeper, Program}
  alias Leash.{Environment, Error, Platform}

  @doc "Starts what keeps the programs, and warns that this is not for production."
  @spec start_link() :: Supervisor.on_start()
  def start_link do
    {_family, name} = Platform.os()

    Logger.warning(
      "Leash runs on Linux, and this is #{name}: programs are plain ports with a group each " <>
        "(unsupported_os: :degrade). That is for a developer's machine and never for " <>
        "production: what leaves its group is left behind, and no sweep finds it"
    )

    Supervisor.start_link(__MODULE__, nil, name: __MODULE__)
  end

  @impl true
  def init(nil) do
    children = [{DynamicSupervisor, name: Leash.Degraded.Keepers, strategy: :one_for_one}]
    Supervisor.init(children, strategy: :one_for_one)
  end

  @doc "Opens the port of `Leash.open_port/3`, with options that are checked."
  @spec open_port(map()) :: port()
  def open_port(%{identity: _arguments}), do: raise(Error, reason: {:ids, :enotsup})

  def open_port(options) do
    # The VM enters :cd before it looks for the program.
    program = {:spawn_executable, Path.expand(options.command)}
    own = [args: options.args, env: Environment.for_port(options, options.env)]
    own = if options.arg0, do: [{:arg0, options.arg0} | own], else: own
    flags = if options.stderr == :stdout, do: [:stderr_to_stdout], else: []
    port = Port.open(program, own ++ flags ++ options.port)

    # A program that has ended already has no pid, and its port is closed.
    with {:os_pid, pid} when is_integer(pid) <- Port.info(port, :os_pid),
         do: {:ok, _keeper} = Program.keep(:port, port, pid, Map.put(options, :name, nil))

    port
  end

  @doc "Returns the rows of `Leash.list/1`."
  @spec list() :: [Leash.listed()]
  def list, do: Enum.map(rows(), &listed(elem(&1, 1)))

  defp rows do
    for {_id, keeper, _type, _modules} <-
          DynamicSupervisor.which_children(Leash.Degraded.Keepers),
        is_pid(keeper),
        row = Keeper.row(keeper) do
      {keeper, row}
    end
    |> Enum.sort_by(fn {_keeper, row} -> row.number end)
  end

  defp listed(row) do
    %{
      run_id: nil,
      worker: row.number,
      kind: row.kind,
      pid: row.owner,
      name: row.name,
      label: row.label,
      group: row.group,
      os_pid: row.os_pid,
      shim_pid: nil,
      tree: row.tree,
      age: System.monotonic_time(:millisecond) - row.began,
      processes: nil,
      rss: nil,
      cpu: nil,
      restart: nil,
      last_exit: nil
    }
  end

  @doc "Ends the programs of a group in parallel; see `Leash.stop_all/2`."
  @spec stop_all(Leash.group() | :all, timeout()) :: [Leash.stopped()]
  def stop_all(group, deadline) do
    kept =
      for {keeper, row} <- rows(), Leash.Group.includes?(group, row.group) do
        :ok = Keeper.finish(keeper, if(deadline == 0, do: :kill, else: :ladder))
        {keeper, row, Process.monitor(keeper)}
      end

    until = System.monotonic_time(:millisecond) + deadline
    Enum.map(kept, fn {keeper, row, monitor} -> stopped(row, ended(keeper, monitor, until)) end)
  end

  @kill_ms 2_000

  defp ended(keeper, monitor, until) do
    with :late <- await(monitor, max(0, until - System.monotonic_time(:millisecond))) do
      Keeper.finish(keeper, :kill)
      await(monitor, @kill_ms)
    end
  end

  defp await(monitor, ms) do
    receive do
      {:DOWN, ^monitor, :process, _pid, {:shutdown, :left}} -> :left
      {:DOWN, ^monitor, :process, _pid, _reason} -> :gone
    after
      ms -> :late
    end
  end

  defp stopped(row, outcome) do
    result = if outcome == :gone, do: {:ok, :gone}, else: {:error, %Error{reason: :survivors}}

    row
    |> Map.take([:label, :group, :os_pid])
    |> Map.merge(%{worker: row.number, pid: row.owner, result: result})
  end
end
