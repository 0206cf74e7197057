defmodule Leash.Descriptor do
  # Completes the bare functions of `Leash.Native`.
  @moduledoc false

  alias Leash.Native

  @doc "Closes a descriptor and removes the message that it may have sent to the caller."
  @spec close(Native.fd() | nil) :: :ok
  def close(nil), do: :ok

  def close(fd) do
    _ = Native.fd_close(fd)

    receive do
      {:leash_fd, ^fd, _what} -> :ok
    after
      0 -> :ok
    end
  end

  @doc """
  Sends the caller the message when the process of a pidfd has ended.

  If its end cannot be watched, then the message comes at once.
  """
  @spec await_end(Native.fd(), term()) :: :ok
  def await_end(fd, message) do
    if Native.pidfd_monitor(fd, message) != :ok, do: send(self(), message)
    :ok
  end

  @doc """
  Does the same as `Leash.Native.pidfd_monitor/2` for a descriptor that another process may watch.

  A descriptor can notify one process at a time, and the Reaper may wait for the one in the table.
  So this function makes a copy, which lives until the message is sent.
  """
  @spec monitor_end(Native.fd(), term()) :: :ok | {:error, term()}
  def monitor_end(fd, message) do
    with {:ok, own} <- Native.fd_dup(fd), do: Native.pidfd_monitor(own, message)
  end
end
