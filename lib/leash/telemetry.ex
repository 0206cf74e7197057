defmodule Leash.Telemetry do
  @events [
    {[:leash, :worker, :start], "a program runs (it was executed)", "`:system_time`",
     "those of a worker"},
    {[:leash, :worker, :ready], "it is ready, as `:ready` says", "`:duration` since the start",
     "those of a worker"},
    {[:leash, :worker, :stop], "its tree is gone", "`:duration` since the start",
     "those of a worker, `:exit` (`Leash.Exit`, nil where no process saw it: of ports, and " <>
       "of a Worker that was killed)"},
    {[:leash, :worker, :survivors], "its tree could not be ended, or not all of it could be seen",
     "`:count`", "those of a worker, `:survivors` (see `t:Leash.Worker.survivor/0`)"},
    {[:leash, :kill, :step], "a step of the ladder began", "`:elapsed` since the end began",
     "those of a worker, `:signal` (such as `:sigterm`, or `:sigkill` for the last phase; " <>
       "nil where `:command` is the step's command, a list, and where `:stdin` is " <>
       "`:closed`), `:cause` (as in `Leash.Exit`)"},
    {[:leash, :guard, :breach],
     "a tree exceeds a limit of `guard:`, once until it is within it again",
     "`:value`, `:max` (processes, bytes or milliseconds)",
     "those of a worker, `:limit` (`:processes`, `:rss`, `:lifetime` or `:idle`), " <>
       "`:action` (`:stop`, `:log` or `:function`)"},
    {[:leash, :health, :failure], "a worker was not well when `health:` asked",
     "`:count`, how often in a row",
     "those of a worker, `:reason` (as in the exit reason of `Leash.Worker`)"},
    {[:leash, :sweep, :start], "a sweep begins", "`:system_time`", "`:run_id`, `:mode`"},
    {[:leash, :sweep, :match], "a process that carries a tag was judged", "`:count`, 1",
     "`:run_id` (this run's), `:match` (as in `Leash.Sweep`)"},
    {[:leash, :sweep, :stop], "a sweep is over",
     "`:duration`, `:matches`, `:survivors` (numbers)", "`:run_id`, `:mode`, `:complete`"}
  ]

  @table Enum.map_join(@events, "\n", fn {name, at, measurements, metadata} ->
           "| `#{inspect(name)}` | #{at} | #{measurements} | #{metadata} |"
         end)

  @moduledoc """
  Events for `:telemetry`, if the host has it. Nothing here needs it.

      :telemetry.attach("log-kills", [:leash, :kill, :step], &MyApp.Log.kill/4, nil)

  | event | when | measurements | metadata |
  |---|---|---|---|
  #{@table}

  Times are in native units (`System.convert_time_unit/3`). The metadata of a worker are
  `:run_id`, `:worker` (its number), `:kind` (`:worker`, `:command`, `:port`, `:adopted` or
  `:attachment`), `:label`, `:group`, `:pid`, `:os_pid` (nil for ports) and `:shim_pid`.

  Handlers run in the process that ends trees. A slow handler holds up the end of that worker. If
  the process is the Reaper, it also holds up the workers behind that one. Handlers of
  `[:leash, :guard, …]` hold up the guard of all workers, and those of `[:leash, :health, …]` the
  next check of that worker.
  """

  alias Leash.{Registry, Run}

  @doc "Returns the names of all events, for `:telemetry.attach_many/4`."
  @spec events() :: [[atom(), ...]]
  def events, do: Enum.map(@events, &elem(&1, 0))

  @doc false
  @spec worker(:start | :ready, pos_integer()) :: :ok
  def worker(:start, number),
    do:
      of_worker([:leash, :worker, :start], number, fn _row ->
        %{system_time: System.system_time()}
      end)

  def worker(:ready, number), do: of_worker([:leash, :worker, :ready], number, &lived/1)

  @doc false
  @spec worker_stop(pos_integer(), Leash.Exit.t() | nil) :: :ok
  def worker_stop(number, exit),
    do: of_worker([:leash, :worker, :stop], number, &lived/1, %{exit: exit})

  @doc false
  # The events of `Leash.Worker.Machine`. `elapsed` is in milliseconds, as the shim counts.
  @spec of_tree(
          pos_integer(),
          {:stop, Leash.Exit.t()}
          | {:survivors, [Leash.Worker.survivor()]}
          | {:step, Leash.Exit.cause(), term(), non_neg_integer()}
        ) :: :ok
  def of_tree(number, {:stop, exit}), do: worker_stop(number, exit)
  def of_tree(number, {:survivors, list}), do: survivors(number, list)
  def of_tree(number, {:step, cause, step, elapsed}), do: step(number, cause, step, elapsed)

  @doc false
  @spec survivors(pos_integer(), [Leash.Worker.survivor()]) :: :ok
  def survivors(number, survivors),
    do:
      of_worker(
        [:leash, :worker, :survivors],
        number,
        fn _row -> %{count: length(survivors)} end,
        %{
          survivors: survivors
        }
      )

  @doc false
  # `elapsed` is in milliseconds, as the shim counts.
  @spec step(
          pos_integer(),
          Leash.Exit.cause(),
          Leash.Signal.t() | :close_stdin | Leash.StopCommand.step(),
          non_neg_integer()
        ) :: :ok
  def step(number, cause, step, elapsed) do
    elapsed = System.convert_time_unit(elapsed, :millisecond, :native)
    more = Map.put(taken(step), :cause, cause)
    of_worker([:leash, :kill, :step], number, fn _row -> %{elapsed: elapsed} end, more)
  end

  defp taken({:cmd, command}), do: %{signal: nil, command: command}
  defp taken(:close_stdin), do: %{signal: nil, stdin: :closed}
  defp taken(signal), do: %{signal: signal}

  @doc false
  @spec guard(pos_integer(), Leash.Guard.breach(), :stop | :log | :function) :: :ok
  def guard(number, breach, action) do
    measurements = Map.take(breach, [:value, :max])
    more = %{limit: breach.limit, action: action}
    of_worker([:leash, :guard, :breach], number, fn _row -> measurements end, more)
  end

  @doc false
  @spec health(pos_integer(), pos_integer(), term()) :: :ok
  def health(number, count, reason),
    do:
      of_worker([:leash, :health, :failure], number, fn _row -> %{count: count} end, %{
        reason: reason
      })

  @doc false
  @spec sweep(Run.t(), atom(), (() -> result)) :: result
        when result: {:ok, Leash.Sweep.t()} | {:error, term()}
  def sweep(run, mode, function) do
    metadata = %{run_id: run.id, mode: mode}
    execute([:leash, :sweep, :start], %{system_time: System.system_time()}, metadata)
    began = System.monotonic_time()
    result = function.()

    with {:ok, report} <- result do
      for match <- report.matches,
          do: execute([:leash, :sweep, :match], %{count: 1}, %{run_id: run.id, match: match})

      measurements = %{
        duration: System.monotonic_time() - began,
        matches: length(report.matches),
        survivors: length(report.survivors)
      }

      execute(
        [:leash, :sweep, :stop],
        measurements,
        Map.put(metadata, :complete, report.complete)
      )
    end

    result
  end

  defp lived(row), do: %{duration: System.monotonic_time() - row.began}

  # The row is looked up only if a handler may be attached.
  defp of_worker(event, number, measurements, more \\ %{}) do
    with true <- listens?(), {:ok, row} <- Registry.fetch(number) do
      metadata = %{
        run_id: Run.id(),
        worker: row.number,
        kind: row.kind,
        label: row.label,
        group: row.group,
        pid: row.pid,
        os_pid: row.os_pid,
        shim_pid: row.shim
      }

      execute(event, measurements.(row), Map.merge(metadata, more))
    end

    :ok
  end

  defp execute(event, measurements, metadata) do
    # `apply/3`, because the compiler warns of a call to a module that does not exist.
    if listens?(), do: apply(:telemetry, :execute, [event, measurements, metadata])
    :ok
  end

  # A process that attaches a handler has loaded the module.
  defp listens?, do: function_exported?(:telemetry, :execute, 3)
end
