defmodule Leash.Executable do
  # Where the program of a command is, and whether it can be one.
  @moduledoc false

  @type problem :: :not_in_path | {:type, atom()} | File.posix()

  @doc """
  The absolute path of a program.

  A name without a slash is looked for in `PATH`, a relative path from `directory`, which is the VM's where it is nil.
  """
  @spec find(String.t(), String.t() | nil) :: {:ok, String.t()} | {:error, problem()}
  def find(command, directory) do
    with {:ok, path} <- path(command, directory), do: check(path)
  end

  # As it is: the kernel knows what `..` behind a symbolic link means, and Path.expand/1 does not.
  defp path("/" <> _ = command, _directory), do: {:ok, command}

  defp path(command, directory) do
    if String.contains?(command, "/"),
      do: {:ok, Path.expand(command, directory || File.cwd!())},
      else: in_path(System.find_executable(command))
  end

  defp in_path(nil), do: {:error, :not_in_path}
  defp in_path(path), do: {:ok, path}

  # Raw: the file server would be asked by every start of every worker, one after the other.
  defp check(path) do
    case :file.read_file_info(path, [:raw]) do
      {:ok, {:file_info, _size, :regular, _access, _, _, _, mode, _, _, _, _, _, _}}
      when Bitwise.band(mode, 0o111) != 0 ->
        {:ok, path}

      {:ok, info} when elem(info, 2) == :regular ->
        {:error, :eacces}

      {:ok, info} ->
        {:error, {:type, elem(info, 2)}}

      {:error, reason} ->
        {:error, reason}
    end
  end
end
