defmodule Leash.Executable do
  # Where the program of a command is, and whether it can be one.
  @moduledoc false

  alias Leash.{Native, WorkingDirectory}

  @type problem ::
          :not_in_path
          | :no_working_directory
          | {:type, :device | :directory | :other}
          | Native.posix()

  @doc """
  The absolute path of a program.

  A name without a slash is looked for in `PATH`, a relative path from `directory`, which is the VM's where it is nil.
  """
  @spec find(String.t(), String.t() | nil) :: {:ok, String.t()} | {:error, problem()}
  def find(command, directory) do
    with {:ok, path} <- path(command, directory), do: check(path)
  end

  @doc "Like `find/2` from the VM's directory, with the errors of `System.cmd/3` and `Port.open/2` raised as they raise them."
  @spec find!(String.t()) :: String.t()
  def find!(command) do
    case find(command, nil) do
      {:ok, path} -> path
      {:error, :not_in_path} -> :erlang.error(:enoent)
      {:error, :no_working_directory} -> raise WorkingDirectory.message()
      {:error, {:type, _no_program}} -> :erlang.error(:eacces)
      {:error, reason} -> :erlang.error(reason)
    end
  end

  # As it is: the kernel knows what `..` behind a symbolic link means, and Path.expand/1 does not.
  defp path("/" <> _ = command, _directory), do: {:ok, command}

  defp path(command, directory) do
    if String.contains?(command, "/"),
      do: from(directory || "", command),
      else: in_path(System.find_executable(command))
  end

  defp from("/" <> _ = directory, command), do: {:ok, Path.expand(command, directory)}

  defp from(directory, command) do
    case File.cwd() do
      {:ok, cwd} -> {:ok, directory |> Path.expand(cwd) |> then(&Path.expand(command, &1))}
      {:error, _gone} -> {:error, :no_working_directory}
    end
  end

  defp in_path(nil), do: {:error, :not_in_path}
  defp in_path(path), do: {:ok, path}

  # Not :file.read_file_info/2, which wakes a dirty scheduler: that took longer than all other checks of a start.
  defp check(path), do: with(:ok <- Native.executable(path), do: {:ok, path})
end
