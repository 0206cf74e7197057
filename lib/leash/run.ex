defmodule Leash.Run do
  # This run: its id, its owner, and the lock on its record.
  #
  # The struct lives in :persistent_term, and with it the lock's descriptor. So no process of the
  # application holds the lock. The run stays locked until the VM ends or the application stops,
  # even if any of these processes is killed.
  @moduledoc false

  alias Leash.{Config, Native, RunId}

  @enforce_keys [:id, :owner, :shim_owner, :lock, :config]
  defstruct [:id, :owner, :shim_owner, :lock, :config]

  @type owner :: %{
          pid: pos_integer(),
          start_ticks: non_neg_integer(),
          pid_ns: non_neg_integer(),
          boot: String.t()
        }

  @type t :: %__MODULE__{
          id: RunId.t(),
          owner: owner() | nil,
          shim_owner: String.t() | nil,
          lock: {:ok, reference()} | {:error, term()},
          config: Config.t()
        }

  @key {__MODULE__, :current}

  # Any term may be a name. A line of the record holds this much of it.
  @shown [limit: 20, printable_limit: 200]
  @most_shown 200

  @doc "Begins a run: takes a free id, writes and locks its record."
  @spec open(Config.t()) :: {:ok, t()} | {:error, term()}
  def open(config) do
    run = %__MODULE__{
      id: nil,
      owner: owner(Native.owner_tag_base()),
      shim_owner: shim_owner(Native.owner_option()),
      lock: nil,
      config: config
    }

    case Native.run_open(config.run_dir, fields(config)) do
      {:ok, lock, id} ->
        {:ok, put(%__MODULE__{run | id: id, lock: {:ok, lock}})}

      {:error, reason} when config.record == :required ->
        {:error, {:record, config.run_dir, reason}}

      {:error, reason} ->
        {:ok, put(%__MODULE__{run | id: RunId.generate(), lock: {:error, reason}})}
    end
  end

  # The record tells its readers when the run began.
  defp fields(config) do
    now = DateTime.truncate(DateTime.utc_now(), :second)

    %{
      node: Atom.to_string(node()),
      app: config.app,
      version: version(),
      started_at: DateTime.to_iso8601(now)
    }
  end

  @doc """
  Writes a lost record again.

  If a run began without a record, it gets one as soon as its directory can be used.
  """
  @spec keep() :: :ok | {:error, term()}
  def keep do
    case fetch() do
      {:ok, %__MODULE__{lock: {:ok, lock}}} -> Native.run_ensure(lock)
      {:ok, run} -> begin_record(run)
      {:error, _no_run} -> :ok
    end
  end

  defp begin_record(%__MODULE__{} = run) do
    with {:ok, lock} <- Native.run_create(run.config.run_dir, run.id, fields(run.config)) do
      _ = put(%{run | lock: {:ok, lock}})
      :ok
    end
  end

  @doc "Removes these numbers from the record, because they are free."
  @spec forget([pos_integer()]) :: :ok | {:error, term()}
  def forget(numbers) do
    case fetch() do
      {:ok, %__MODULE__{lock: {:ok, lock}}} when numbers != [] -> Native.run_forget(lock, numbers)
      _no_record -> :ok
    end
  end

  defp owner({pid, start_ticks, pid_ns, boot}),
    do: %{pid: pid, start_ticks: start_ticks, pid_ns: pid_ns, boot: boot}

  # There is no /proc, or it belongs to another namespace, so no process can identify this VM. The
  # workers carry no owner, the shims have only the leash, and no sweep ever judges this run.
  defp owner({:error, _no_proc}), do: nil

  # The shim compares with what /proc shows here, and the tag with what /proc shows everywhere. In
  # a time namespace the two differ.
  defp shim_owner({:error, _no_proc}), do: nil
  defp shim_owner({pid, start_ticks}), do: "#{pid}:#{start_ticks}"

  defp put(run) do
    :persistent_term.put(@key, run)
    run
  end

  @doc "Returns the current run, or an error while the application is stopped."
  @spec fetch() :: {:ok, t()} | {:error, :not_running | :unsupported_os}
  def fetch do
    case :persistent_term.get(@key, nil) do
      %__MODULE__{} = run -> {:ok, run}
      nil -> {:error, :not_running}
      _no_linux -> {:error, :unsupported_os}
    end
  end

  @doc """
  Notes that this system has no runs: its programs are plain ports, or it starts none.
  """
  @spec none(:degrade | :error) :: :ok
  def none(mode), do: :persistent_term.put(@key, mode)

  @doc "Returns whether programs are plain ports; see `Leash.Degraded`."
  @spec degraded?() :: boolean()
  def degraded?, do: :persistent_term.get(@key, nil) == :degrade

  @doc "Returns the current run's id, or nil while the application is stopped."
  @spec id() :: RunId.t() | nil
  def id, do: with({:ok, run} <- fetch(), do: run.id, else: (_none -> nil))

  @doc "Returns the current run. Raises while the application is stopped."
  @spec current!() :: t()
  def current! do
    case fetch() do
      {:ok, run} -> run
      {:error, reason} -> raise Leash.Error, reason: reason
    end
  end

  @doc "Ends the run. The record is removed only if nothing of the run is left."
  @spec close(boolean()) :: :ok
  def close(drop_record?) do
    run = fetch()
    _ = :persistent_term.erase(@key)

    with {:ok, %__MODULE__{lock: {:ok, lock}}} <- run do
      _ = Native.run_close(lock, drop_record?)
    end

    :ok
  end

  @doc "Returns `LEASH_RUN` for one worker, or nil if this VM cannot be identified."
  @spec owner_tag(t(), pos_integer()) :: String.t() | nil
  def owner_tag(%__MODULE__{owner: nil}, _number), do: nil

  def owner_tag(%__MODULE__{id: id, owner: owner}, number) do
    "#{id}.#{number}.#{owner.pid}.#{owner.start_ticks}.#{owner.pid_ns}.#{owner.boot}"
  end

  @doc """
  Writes to the record that the mark of a worker is off.

  Without that line, the worker's environment alone proves nothing.
  """
  @spec note_mark(t(), pos_integer(), map()) :: :ok
  def note_mark(%__MODULE__{lock: {:ok, lock}}, number, %{mark: false}) do
    # A lost line costs a cleanup after a crash, and nothing else.
    _ = Native.run_append_unmarked(lock, number)
    :ok
  end

  def note_mark(_run, _number, _marked), do: :ok

  @doc """
  Writes the name and the group of a worker to the record, for those that look from outside.

  The command `leash` shows them, also when the VM is gone.
  """
  @spec note_name(pos_integer(), GenServer.name() | nil, Leash.Group.t() | nil) ::
          :ok | {:error, term()}
  def note_name(number, name, group) do
    case fetch() do
      {:ok, %__MODULE__{lock: {:ok, lock}}} ->
        Native.run_append_name(lock, number, shown(name), shown(group))

      _no_record ->
        {:error, :no_record}
    end
  end

  defp shown(nil), do: nil
  defp shown(term), do: term |> inspect(@shown) |> String.slice(0, @most_shown)

  @doc """
  Adds `run_id_flag:` and the id to the end of the arguments, and the command to the record.
  """
  @spec with_flag(t(), pos_integer(), map()) :: map()
  def with_flag(_run, _number, %{run_id_flag: nil} = options), do: options

  def with_flag(run, number, %{run_id_flag: flag} = options) do
    options = %{options | args: options.args ++ [flag, run.id]}

    # A process can be convicted by its argv alone only if the record names the command. Otherwise
    # the other carriers must do. A detached worker must not be convicted.
    with {:ok, lock} <- run.lock, false <- options[:on_exit] == :detach do
      argv = [options.arg0 || options.command | options.args]
      _ = Native.run_append_command(lock, number, flag, argv)
    end

    options
  end

  defp version do
    case Application.spec(:leash, :vsn) do
      nil -> "unknown"
      version -> List.to_string(version)
    end
  end
end
