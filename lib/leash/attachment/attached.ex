defmodule Leash.Attachment.Attached do
  # The data of an attached tree: its owner, its line in the record, and what is not covered.
  # Without the line in the record a later run would not end a process older than this VM.
  @moduledoc false

  alias Leash.{Native, OSProcess, Run}

  @typedoc "The data that a Worker keeps of the attachment."
  @type t :: %{
          required(:process) => OSProcess.t(),
          required(:option) => String.t(),
          required(:owner) => pid() | :application | {:os_pid, OSProcess.t()},
          optional(atom()) => term()
        }

  @doc "Watches the owner."
  @spec watch(map()) :: {:ok, map()} | {:error, term()}
  def watch(%{attach: attach} = options) do
    with {:ok, watch} <- watch_owner(attach.owner),
         do: {:ok, %{options | attach: Map.merge(attach, %{watch: watch, not_covered: []})}}
  end

  defp watch_owner(:application), do: {:ok, nil}

  defp watch_owner(pid) when is_pid(pid) do
    monitor = Process.monitor(pid)
    if Process.alive?(pid), do: {:ok, monitor}, else: {:error, :noproc}
  end

  # The descriptor belongs to this process, and its reference keeps it open.
  defp watch_owner({:os_pid, process}) do
    with {:ok, fd} <- Native.process_open(process.pid, process.start_ticks, process.pidfs_inode),
         :ok <- Native.pidfd_monitor(fd, {:leash, :owner_ended}) do
      {:ok, fd}
    else
      {:error, reason} when reason in [:esrch, :reused] -> {:error, :noproc}
      {:error, reason} -> {:error, {:owner, reason}}
    end
  end

  @doc """
  Writes the process into the record, before there is a shim.

  Without a record, a later run keeps and reports what is older than this VM.
  """
  @spec record(Run.t(), pos_integer(), t()) :: :ok
  def record(%Run{lock: {:ok, lock}}, number, %{process: process}) do
    _ = Native.run_append_attachment(lock, number, process.pid, process.start_ticks)
    :ok
  end

  def record(_run, _number, _attachment), do: :ok

  @doc "Looks up once which processes the mark did not reach, after marking is complete."
  @spec attached(t(), Run.t(), pos_integer()) :: t()
  def attached(attach, run, number) do
    case Native.not_covered(attach.process.pid, run.id, number) do
      {:ok, list} -> %{attach | not_covered: list}
      {:error, _no_proc} -> attach
    end
  end

  @doc "Adds what `Leash.Worker.info/1` reports only of an attached tree."
  @spec info(map(), t() | nil) :: map()
  def info(info, nil), do: info
  def info(info, attach), do: Map.put(info, :not_covered, attach.not_covered)
end
