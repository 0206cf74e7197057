defmodule Leash.Adopted.Program do
  # Watches the program of an adopted tree, because what the program leaves needs a bound.
  #
  # The shim waits for what it cannot end as long as that lives, and cannot report to anything.
  @moduledoc false

  alias Leash.{Detached, Native, OSProcess}
  alias Leash.Shim.Escalation

  @linger "--linger="
  # The shim's own default.
  @default_linger_ms 200

  @doc """
  Sends the caller `:program_ended` when the program ends.

  Returns `nil` if the program has ended already or cannot be watched.
  """
  @spec watch(Detached.tree()) :: Native.fd() | nil
  def watch(%{os_pid: nil}) do
    send(self(), :program_ended)
    nil
  end

  def watch(tree) do
    # Its parent is the shim, so no other process can have had the number between the two looks.
    with {:ok, program} <- OSProcess.identify(tree.os_pid),
         {:ok, %{ppid: parent}} when parent == tree.shim_pid <- OSProcess.info(program),
         {:ok, fd} <-
           Native.process_open(program.pid, program.start_ticks, program.pidfs_inode) do
      :ok = Native.await_end(fd, :program_ended)
      fd
    else
      _not_ours -> nil
    end
  end

  @doc "Milliseconds that what the program leaves may take to end: the shim's linger and ladder."
  @spec bound(Detached.tree()) :: timeout()
  def bound(%{patience_ms: nil}), do: :infinity
  def bound(tree), do: linger(tree) + Escalation.bound(:ladder, tree.patience_ms)

  defp linger(tree) do
    shim = %OSProcess{
      pid: tree.shim_pid,
      start_ticks: tree.start_ticks,
      pidfs_inode: tree.pidfs_inode
    }

    with {:ok, %{args: args}} <- OSProcess.info(shim),
         @linger <> text <- Enum.find(args, &String.starts_with?(&1, @linger)),
         {ms, ""} <- Integer.parse(text) do
      ms
    else
      _unread -> @default_linger_ms
    end
  end
end
