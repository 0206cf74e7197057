defmodule Leash do
  @moduledoc """
  Every OS process your BEAM app starts, on a leash.

      {Leash.Worker, command: "python3", args: ["-u", "worker.py"], name: MyApp.Embedder}

  Operating system processes that a VM starts stay when it is killed: they hold ports, GPUs and
  files, and write stale output. Leash starts them tagged with the run they belong to, ends them and
  everything they started on every path on which the run can end, and at the next start ends what a
  crashed run left behind, without touching a process that is not its own.

    * `Leash.Worker` - a supervised program
    * `Leash.OSProcess` - looking at, signalling and monitoring any process by identity instead of pid
    * `sweep/1` - what crashed runs left; called at application start
    * `Leash.RunId` - the ids that runs are known by

  ## Configuration

      config :leash,
        run_dir: "/run/my_app/leash"

  #{Leash.Schema.docs(Leash.Config.schema())}
  """

  alias Leash.{Hunt, Native, Run, RunId, Sweep, Workers}

  @doc """
  This run's id. Raises while the `:leash` application is stopped.
  """
  @spec run_id() :: RunId.t()
  def run_id, do: Run.current!().id

  @doc """
  The workers of this run, by number.

  `:tree` is `:alive`, `:ending` or `:gone`; a row stays until its tree is proven gone, also when its process is not there any
  more.
  """
  @spec list() :: [
          %{
            worker: pos_integer(),
            pid: pid(),
            label: String.t(),
            os_pid: pos_integer() | nil,
            shim_pid: pos_integer() | nil,
            tree: :alive | :ending | :gone
          }
        ]
  def list do
    for row <- Workers.all() do
      %{
        worker: row.number,
        pid: row.pid,
        label: row.label,
        os_pid: row.os_pid,
        shim_pid: row.shim,
        tree: row.tree
      }
    end
  end

  @doc """
  Ends what crashed runs of this user left behind, and says what it saw.

  Called at application start with the options of `config :leash, sweep: […]`. See `Leash.Sweep` for
  the result and for how a run is judged.

  ## Options

  #{Leash.Schema.docs(Leash.Sweep.schema())}
  ## Errors

    * `%Leash.OptionsError{}` - an option is wrong; nothing was signalled
    * `:not_running` - the `:leash` application is not started
  """
  @spec sweep(keyword()) ::
          {:ok, Sweep.t()} | {:error, Leash.OptionsError.t() | :not_running | term()}
  def sweep(options \\ []), do: Sweep.run(options)

  @doc """
  Ends what is left of one dead run, as `sweep/1` would.

  Errors:

    * `:invalid_run_id` - not an id; nothing was signalled
    * `:live` - its VM lives: stop that instead
    * `:own` - it is this run: stop the application instead
    * any other verdict of `Leash.Sweep` that keeps a run, such as `:unknown_owner`
    * `:not_running` - the `:leash` application is not started
  """
  @spec kill_run(RunId.t()) :: {:ok, Sweep.t()} | {:error, atom()}
  def kill_run(run_id) do
    with :ok <- check_id(run_id),
         {:ok, run} <- with(:error <- Run.fetch(), do: {:error, :not_running}),
         :ok <- check_foreign(run, run_id),
         {:ok, report} <- Hunt.run(run_spec(run, run_id)) do
      refused(report)
    end
  end

  defp check_id(run_id), do: if(RunId.valid?(run_id), do: :ok, else: {:error, :invalid_run_id})

  defp check_foreign(%Run{id: id}, id), do: {:error, :own}
  defp check_foreign(_run, _id), do: :ok

  defp run_spec(run, run_id) do
    %{
      kind: :run,
      run_id: run_id,
      own_run_id: run.id,
      run_dir: run.config.run_dir,
      app: run.config.app,
      deadline: 10_000,
      ladder: Sweep.ladder(sigterm: 2_000)
    }
  end

  defp refused(%{refused: {:run, verdict}}), do: {:error, verdict}
  defp refused(report), do: {:ok, Sweep.from_report(report)}

  @doc """
  What this machine gives: which carriers, pidfds, what of `/proc` can be seen, and whether the run has a
  record. Where something is missing Leash works at a lower level, and this is where it says so.
  """
  @spec capabilities() :: map()
  def capabilities do
    {run_dir, record} =
      case Run.fetch() do
        {:ok, %Run{lock: {:ok, _lock}, config: config}} -> {config.run_dir, :ok}
        {:ok, %Run{lock: {:error, reason}, config: config}} -> {config.run_dir, {:error, reason}}
        :error -> {nil, {:error, :not_running}}
      end

    run_dir |> Native.capabilities() |> Map.put(:record, record)
  end
end
